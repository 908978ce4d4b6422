import anndata
import numpy as np
import pytest
from helpers import assert_unchanged
from scipy import sparse
from slides import visium

from stimage import datasets, pp, tl


def full_slide(seed):
    """Spots without a hole between them, of genes that the model knows."""
    adata = visium(11, 9, n_genes=60, seed=seed)
    adata.var_names = [f"GENE{number + 1:05d}" for number in range(60)]
    return adata


@pytest.fixture
def whole():
    whole = full_slide(0)
    pp.compact_grid(whole)
    return whole


@pytest.fixture
def torn(whole):
    """A slide that lacks a block of observations, and where one spot elsewhere has no counts."""
    row, col = whole.obs["grid_row"], whole.obs["grid_col"]
    torn = whole[~(row.between(4, 5) & col.between(4, 6))].copy()
    counts = torn.X.toarray()
    counts[20] = 0
    torn.X = sparse.csr_matrix(counts)
    return torn


def test_sites_and_coordinates(whole, torn, model):
    with assert_unchanged(torn):
        holes = tl.fill_holes(torn, model)
    exists = holes.obs["is_observation"].to_numpy()
    assert holes.obs_names[exists].tolist() == [torn.obs_names[20]]
    sites = list(zip(holes.obs["grid_row"], holes.obs["grid_col"], strict=True))
    assert sorted(np.array(sites)[~exists].tolist()) == [[r, c] for r in (4, 5) for c in (4, 5, 6)]
    assert all(
        name == f"hole_{r}_{c}" for name, (r, c) in zip(holes.obs_names[~exists], np.array(sites)[~exists], strict=True)
    )
    place = {site: number for number, site in enumerate(zip(whole.obs["grid_row"], whole.obs["grid_col"], strict=True))}
    truth = whole.obsm["spatial"][[place[site] for site in sites]]
    np.testing.assert_allclose(holes.obsm["spatial"], truth, atol=1e-3)
    assert holes.var_names.tolist() == [gene for gene in model.genes if gene in whole.var_names]
    assert holes.uns["grid"]["slides"].equals(torn.uns["grid"]["slides"])


def test_prediction_is_that_of_the_same_region_hidden(whole, torn, model):
    holes = tl.fill_holes(torn, model, interval=0.8)
    hidden = whole.obs_names.isin(torn.obs_names[[20]]) | ~whole.obs_names.isin(torn.obs_names)
    tl.reconstruct_region(whole, model, region=hidden, interval=0.8)
    rows = (
        whole.obs.reset_index()
        .set_index(["grid_row", "grid_col"])
        .loc[list(zip(holes.obs["grid_row"], holes.obs["grid_col"], strict=True)), "index"]
    )
    expected = whole[rows.to_numpy(), holes.var_names]
    layers = {"stimage_region": holes.X}
    layers |= {f"stimage_region_{end}": holes.layers[f"stimage_holes_{end}"] for end in ("lower", "upper")}
    for key, values in layers.items():
        np.testing.assert_allclose(values, expected.layers[key].toarray(), atol=1e-5)


def test_no_holes(whole, model, tmp_path):
    holes = tl.fill_holes(whole, model)
    assert holes.shape == (0, 40)
    holes.write_h5ad(tmp_path / "none.h5ad")


def test_holes_of_several_slides(model, tmp_path):
    pair = anndata.concat({f"slide_{n}": full_slide(n) for n in (1, 2)}, label="slide", index_unique="-")
    pp.compact_grid(pair, slide_key="slide")
    row, col = pair.obs["grid_row"], pair.obs["grid_col"]
    torn = pair[~(row.isin([5]) & col.isin([4, 5]))].copy()
    holes = tl.fill_holes(torn, model)
    assert sorted(holes.obs_names) == [f"slide_{s}_hole_5_{c}" for s in (1, 2) for c in (4, 5)]
    assert holes.obs["slide"].tolist() == ["slide_1"] * 2 + ["slide_2"] * 2
    holes.write_h5ad(tmp_path / "holes.h5ad")
    together = anndata.concat([torn, holes], uns_merge="same")
    assert {*zip(together.obs["slide"], together.obs["grid_row"], together.obs["grid_col"], strict=True)} == {
        *zip(pair.obs["slide"], row, col, strict=True)
    }


def test_cells_in_bins(cells, model):
    holes = tl.fill_holes(cells, model)
    taken = set(zip(cells.obs["grid_row"], cells.obs["grid_col"], strict=True))
    assert not taken & set(zip(holes.obs["grid_row"], holes.obs["grid_col"], strict=True))


def test_bad_input(torn, model):
    ranks = datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=60, n_domains=3, seed=0)
    pp.compact_grid(ranks, layout="rank")
    without = torn.copy()
    del without.obsm["spatial"]
    cases = [
        (ranks, ValueError, "'rank'", {}),
        (without, KeyError, "spatial", {}),
        (torn, ValueError, "interval", {"interval": 1.0}),
        (torn, ValueError, "context", {"context": 0}),
        (torn, TypeError, "model", {"model": "human"}),
        (torn, ValueError, "key_added", {"key_added": ""}),
    ]
    for adata, error, message, options in cases:
        with assert_unchanged(adata), pytest.raises(error, match=message):
            tl.fill_holes(adata, **{"model": model, **options})
