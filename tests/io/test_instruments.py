"""Files of instruments: molecules in bins, and counts of cells."""

import gzip

import numpy as np
import pandas as pd
import pytest
from io_layouts import dense, write_10x_folder, write_10x_h5
from slides import visium

import stimage as sti

NOTE = "stimage_source"


@pytest.fixture
def cells():
    return visium(6, 7, n_genes=9, seed=5)


# Stereo-seq


def molecules(seed=0, n=4000):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "geneID": rng.choice([f"gene{i}" for i in range(7)], n),
            "x": rng.integers(1000, 1130, n),
            "y": rng.integers(230, 330, n),
            "MIDCount": rng.integers(1, 4, n),
        }
    )


@pytest.mark.parametrize(("ending", "comments"), [(".gem", ""), (".gem.gz", "#FileFormat=GEMv0.1\n#BinSize=1\n")])
@pytest.mark.parametrize("size", [None, 20])
def test_gem(tmp_path, monkeypatch, ending, comments, size):
    import stimage.io._stereo_seq as module

    monkeypatch.setattr(module, "_ROWS", 700)  # several pieces
    table = molecules()
    path = tmp_path / f"SS2_D1{ending}"
    text = comments + table.to_csv(sep="\t", index=False)
    with gzip.open(path, "wt") if ending.endswith("gz") else path.open("w") as file:
        file.write(text)
    found = sti.io.read(path, bin_size=size)
    side = size or 50
    expected = {}
    for gene, x, y, count in table.itertuples(index=False):
        key = (y // side, x // side, gene)
        expected[key] = expected.get(key, 0) + count
    counts = pd.DataFrame(dense(found), columns=found.var_names)
    assert len(found.obs) == len({key[:2] for key in expected})
    for number, (row, col) in enumerate(found.obs[["array_row", "array_col"]].to_numpy()):
        for gene in found.var_names:
            assert counts.at[number, gene] == expected.get((row, col, gene), 0)
        np.testing.assert_array_equal(found.obsm["spatial"][number], [(col + 0.5) * side, (row + 0.5) * side])
    assert counts.to_numpy().sum() == table["MIDCount"].sum()
    assert found.uns[NOTE]["slide"] == "SS2_D1"
    sti.pp.compact_grid(found)
    assert found.uns["grid"]["slides"]["layout"].tolist() == ["square"]
    assert found.uns["grid"]["summary"]["pitch_micrometres"].iloc[0] == pytest.approx(side / 2)


def test_gem_without_its_columns(tmp_path):
    (tmp_path / "a.gem").write_text("gene\tx\tcount\nA\t1\t2\n")
    with pytest.raises(ValueError, match=r"'a.gem' has the columns 'gene', 'x', 'count': one of"):
        sti.io.read(tmp_path / "a.gem")
    (tmp_path / "a.gem").write_text("geneID\tx\ty\tMIDCount\n")
    with pytest.raises(ValueError, match="lists no molecules"):
        sti.io.read(tmp_path / "a.gem")
    with pytest.raises(ValueError, match="`bin_size` must be at least 1, found 0"):
        sti.io.read(tmp_path / "a.gem", bin_size=0)


# Xenium


@pytest.mark.parametrize("form", ["h5", "folder"])
@pytest.mark.parametrize("prefix", ["", "Cell_"])
def test_xenium(cells, tmp_path, form, prefix):
    folder = tmp_path / "ovary"
    folder.mkdir()
    named = cells.copy()
    named.obs_names = [f"{prefix}{number}" for number in range(1, cells.n_obs + 1)]
    if form == "h5":
        kinds = ["Gene Expression"] * 6 + ["Negative Control Probe", "Blank Codeword", "Blank Codeword"]
        write_10x_h5(folder / "cell_feature_matrix.h5", named, kinds=kinds)
    else:
        named.var_names = [*cells.var_names[:6], "NegControlProbe_1", "BLANK_1", "Blank_2"]
        write_10x_folder(folder / "cell_feature_matrix", named[:, :6], packed=True)
    table = pd.DataFrame({"cell_id": range(1, cells.n_obs + 1)})
    table[["x_centroid", "y_centroid"]] = cells.obsm["spatial"]
    table[::-1].to_csv(folder / "cells.csv.gz", index=False)
    found = sti.io.read(folder)
    np.testing.assert_array_equal(dense(found), dense(cells)[:, :6])
    np.testing.assert_array_equal(found.obsm["spatial"], cells.obsm["spatial"])
    assert found.uns[NOTE]["slide"] == "ovary"
    if form == "h5":
        dropped = {"features of type Negative Control Probe": 1, "features of type Blank Codeword": 2}
        assert found.uns[NOTE]["dropped"] == dropped
    sti.pp.compact_grid(found)
    assert found.uns["grid"]["slides"]["unit"].tolist() == ["micrometre"]
    table[1:].to_csv(folder / "cells.csv.gz", index=False)
    with pytest.raises(ValueError, match=r"each cell of the matrix once \(1 of 42 are missing\)"):
        sti.io.read(folder)
    (folder / "cells.csv.gz").unlink()
    with pytest.raises(ValueError, match="has no table of cells"):
        sti.io.read(folder)


# CosMx and MERSCOPE


def test_cosmx(cells, tmp_path):
    number = np.arange(cells.n_obs)
    keys = pd.DataFrame({"fov": number % 2 + 1, "cell_ID": number // 2 + 1})
    genes = [*cells.var_names[:7], "NegPrb1", "NegPrb2"]
    counts = keys.join(pd.DataFrame(dense(cells).astype(int), columns=genes))
    background = pd.DataFrame([[1, 0, *[999] * 9], [2, 0, *[999] * 9]], columns=counts.columns)
    pd.concat([background, counts]).to_csv(tmp_path / "R1_exprMat_file.csv", index=False)
    meta = keys.assign(Area=5)
    meta[["CenterX_local_px", "CenterY_local_px"]] = 1.0
    meta[["CenterX_global_px", "CenterY_global_px"]] = cells.obsm["spatial"]
    meta[["Width", "Height"]] = 4
    meta.to_csv(tmp_path / "R1_metadata_file.csv", index=False)
    found = sti.io.read(tmp_path)
    order = [f"{cell}_{fov}" for fov, cell in keys.itertuples(index=False)]
    assert sorted(found.obs_names) == sorted(order)
    np.testing.assert_array_equal(dense(found[order]), dense(cells)[:, :7])
    np.testing.assert_array_equal(found[order].obsm["spatial"], cells.obsm["spatial"])
    assert found.uns[NOTE]["dropped"] == {"control features": 2}
    sti.pp.compact_grid(found)
    counts.to_csv(tmp_path / "R2_exprMat_file.csv", index=False)
    with pytest.raises(ValueError, match="must have one file .*put each sample into a folder of its own"):
        sti.io.read(tmp_path)


def test_merscope(cells, tmp_path):
    counts = pd.DataFrame(dense(cells), columns=[*cells.var_names[:8], "Blank-1"])
    counts.index = pd.Index(range(100, 100 + cells.n_obs), name="cell")
    counts.to_csv(tmp_path / "cell_by_gene.csv")
    meta = pd.DataFrame(cells.obsm["spatial"], columns=["center_x", "center_y"])
    meta.index = counts.index
    meta.assign(fov=0, volume=1.0, min_x=0, max_x=1, min_y=0, max_y=1).to_csv(tmp_path / "cell_metadata.csv")
    found = sti.io.read(tmp_path)
    np.testing.assert_array_equal(dense(found), dense(cells)[:, :8])
    np.testing.assert_array_equal(found.obsm["spatial"], cells.obsm["spatial"])
    sti.pp.compact_grid(found)
    assert found.uns["grid"]["slides"]["unit"].tolist() == ["micrometre"]
