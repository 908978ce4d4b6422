"""Real files of instruments and tools: read, or refused with a message that says what is missing."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

import stimage as sti

VENDOR = Path(__file__).resolve().parents[2].parent / "shared" / "vendor"
pytestmark = [
    pytest.mark.skipif(not VENDOR.is_dir(), reason="the real files are not there"),
    pytest.mark.filterwarnings("ignore"),
]
READ = {
    "CellSPA_xenium_subset": (7440, 313, "bins"),
    "SFE_cosmx_flat": (27, 950, "bins"),
    "SpatialData_merfish.zarr": (2389, 268, "bins"),
    "SpatialExperiment_extdata/10xVisium/section1/outs": (22, 50, "hex"),
    "Xenium_mouse_brain_subset": (36602, 248, "bins"),
    "scanpy_visium_data/1.0.0": (100, 100, "hex"),
    "seurat_visium": (2695, 100, "hex"),
    "seurat_visium_hd/binned_outputs/square_008um": (1368, 100, "square"),
    "spateo_stereoseq_gem/SS200000135TL_D1_bin1_small.gem.gz": (36, 10631, "square"),
    "squidpy_h5ad_versions/test_data_2020-10-13_af61238.h5ad": (49, 100, "hex"),
}
REFUSED = {
    "DeepSpot_HEST_style/NCBI858.h5ad": "13 of 200 observations lie outside of the image.*exchanged all lie inside",
    "Giotto_Vizgen_raw": "It has molecules .* and no counts of cells",
    "HelenaLC_SpatialData_zarr/blobs.zarr": "values that are not whole numbers",
    "HelenaLC_SpatialData_zarr/blobs_v3.zarr": "values that are not whole numbers",
    "SpatialExperiment_extdata/10xVisium/section2": "1 of 50 are missing",
    "scanpy_visium_data/2.1.0": "has counts of probes",
    "seurat_visium_hd": "has bins of several sizes.*'square_008um', 'square_016um'",
    "seurat_visium_hd/binned_outputs/square_016um": "2053 of 2695 are missing",
    "CosMx_HumanLung_P9S1_zip/NanostringCosMx_HumanLung_P9S1_Small.zip": "It is packed: unpack it",
    "squidpy_h5ad_versions/test_data_2022-03-20_0daf624.h5ad": "looks log-transformed",
}


@pytest.mark.parametrize("name", READ)
def test_read(name):
    n_obs, n_vars, layout = READ[name]
    adata = sti.io.read(VENDOR / name)
    assert adata.shape == (n_obs, n_vars)
    assert adata.X.sum() > 0
    assert np.isfinite(adata.obsm["spatial"]).all()
    sti.pp.compact_grid(adata)
    assert adata.uns["grid"]["slides"]["layout"].tolist() == [layout]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        sti.io.read(VENDOR / name)


def test_cosmx_once_unpacked(tmp_path):
    with zipfile.ZipFile(VENDOR / "CosMx_HumanLung_P9S1_zip/NanostringCosMx_HumanLung_P9S1_Small.zip") as archive:
        archive.extractall(tmp_path)
    adata = sti.io.read(tmp_path / "NanostringCosMx")
    assert adata.n_obs > 1000
    sti.pp.compact_grid(adata)
