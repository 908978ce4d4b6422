"""From counts to a filled region on slides at the edge of what there is, and back from files."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import in_groups
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import stimage as sti

TINY = {"window": 4, "n_pool_genes": 30, "n_genes": 16, "max_epochs": 1, "windows_per_epoch": 4, "batch_size": 4}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(autouse=True, scope="module")
def quiet_training():
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


def slide_of(n_rows, n_cols, *, n_genes=40, n_counted=40, empty=0.0, seed=0, name="s"):
    """Two kinds of tissue on a Visium lattice; genes beyond ``n_counted`` are never counted, some spots have no counts."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    left = (row + col < (n_rows + n_cols) / 2)[:, None]
    counts = rng.poisson(np.where(left == (np.arange(n_counted) % 2), 3.0, 0.5)) + (np.arange(n_counted) == 0)
    counts[rng.permutation(len(row))[: round(empty * len(row))]] = 0
    counts = sparse.csr_matrix(counts.astype(np.float32))
    counts.resize((len(row), n_genes))
    obs = pd.DataFrame(
        {"array_row": row, "array_col": 2 * col + row % 2}, index=[f"{name}{i}" for i in range(len(row))]
    )
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
    adata.obsm["spatial"] = np.column_stack([obs["array_col"] * 50.0, obs["array_row"] * 86.6])
    return adata


def whole_path(adata, *, slide_key=None, mode="visible", **options):
    before = adata.X.copy()
    sti.pp.compact_grid(adata, slide_key=slide_key)
    model = sti.tl.pretrain(adata, **in_groups(sti.tl.pretrain, **TINY | options, **QUIET))
    sti.tl.embed(adata, model, mode=mode)
    sti.tl.domains(adata, 2, method="kmeans")
    sti.tl.reconstruct_region(adata, model, size=2)
    assert (adata.X != before).nnz == 0
    assert np.isfinite(adata.obsm["X_stimage"]).all()
    assert adata.obs["stimage_domain"].notna().all()
    hidden = adata.obs["stimage_region_masked"].to_numpy()
    known = adata.var_names.isin(model.genes)
    assert 0 < hidden.sum() < adata.n_obs
    filled = adata.layers["stimage_region"][hidden][:, known]
    assert np.isfinite(filled.data).all()
    return model


@pytest.mark.parametrize("empty", [0.01, 0.5, 0.99])
def test_empty_spots(empty):
    adata = slide_of(20, 20, empty=empty)
    assert (np.asarray(adata.X.sum(axis=1)).ravel() == 0).mean() == empty
    whole_path(adata, mode=None)


@pytest.mark.parametrize("shape", [(1, 60), (60, 1)])
def test_one_row_of_spots(shape):
    whole_path(slide_of(*shape))


def test_sixty_thousand_genes():
    adata = slide_of(12, 12, n_genes=60_000)
    model = whole_path(adata)
    assert len(model.genes) == 30
    assert set(model.genes) <= set(adata.var_names[:40])
    hidden = adata.obs["stimage_region_masked"].to_numpy()
    assert adata.layers["stimage_region"][~hidden].nnz <= adata.X.nnz


def test_two_genes_are_enough_and_one_is_not():
    # A vocabulary of two.
    adata = slide_of(12, 12, n_genes=2, n_counted=2)
    sti.pp.compact_grid(adata)
    one = adata[:, :1].copy()
    with pytest.raises(ValueError, match="`adata` has 1 genes, at least 2 are needed"):
        sti.tl.pretrain(one, **in_groups(sti.tl.pretrain, **TINY, **QUIET))
    model = sti.tl.pretrain(adata, **in_groups(sti.tl.pretrain, **TINY, **QUIET))
    sti.tl.embed(adata, model, mode="visible")
    assert np.isfinite(adata.obsm["X_stimage"]).all()


@pytest.mark.parametrize("n_slides", [50])  # 200 take half a minute
def test_many_tiny_slides(n_slides):
    adata = ad.concat([slide_of(4, 5, seed=seed, name=f"{seed}-") for seed in range(n_slides)], label="slide")
    whole_path(adata, slide_key="slide", batch_size=50)
    assert adata.obs.loc[adata.obs["stimage_region_masked"], "slide"].nunique() == 1
    with pytest.raises(ValueError, match=f"`adata` has {n_slides} slides"):
        sti.pl.domains(adata)
    assert len(sti.pl.domains(adata, slides=["0", str(n_slides - 1)]).axes) == 2


# Files


def equal(one, other):
    """Whether what was written is what was read; texts may come back as another type of texts."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, pd.DataFrame):
        frames = [frame.astype(dict.fromkeys(frame.select_dtypes(exclude="number"), str)) for frame in (one, other)]
        assert list(one.index.astype(str)) == list(other.index.astype(str))
        return frames[0].reset_index(drop=True).equals(frames[1].reset_index(drop=True)[frames[0].columns])
    if sparse.issparse(one):
        return one.dtype == other.dtype and np.array_equal(one.toarray(), other.toarray(), equal_nan=True)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return str(one) == str(other)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3, unique=True),
    key=st.text(min_size=1, max_size=8).filter(lambda text: not set(text) & set("/\\\0") and text.strip(".")),
    form=st.sampled_from(["h5ad", "zarr"]),
    layout=st.sampled_from(["hex", "rank", "bins"]),
)
@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:zarr v3", "ignore:.*zarr.*")
def test_results_come_back_from_files(tmp_path_factory, names, key, form, layout):
    """Whatever slides and keys are called."""
    adata = ad.concat([slide_of(4, 5, n_genes=6, n_counted=6, seed=i, name=f"{i}-") for i in range(len(names))])
    adata.obs["slide"] = pd.Categorical(np.repeat(names, 20), categories=names)
    options = {"layout": layout} | ({"bin_size": 120.0} if layout == "bins" else {})
    sti.pp.compact_grid(adata, slide_key="slide", key_added=key, **options)
    sti.pp.build_niches(adata, slide_key="slide", grid_key=key, key_added=f"{key}-niche")
    sti.tl.domains(adata, 2, use_rep="spatial", method="kmeans", key_added=f"{key}-domain")
    path = tmp_path_factory.mktemp("written") / f"slide.{form}"
    getattr(adata, f"write_{form}")(path)
    read = getattr(ad, f"read_{form}")(path)
    assert equal(adata.obs, read.obs)
    for field in ("uns", "obsm", "obsp", "layers"):
        assert equal(dict(getattr(adata, field)), dict(getattr(read, field))), field
    # Work goes on with what was read.
    before = read.obs[[f"{key}_row", f"{key}_col"]].copy()
    sti.pp.compact_grid(read, slide_key="slide", key_added=key, **options)
    assert equal(before, read.obs[[f"{key}_row", f"{key}_col"]])
    if layout != "rank":
        assert sti.pp.aggregate_sites(read, grid_key=key).X.sum() == adata.X.sum()
