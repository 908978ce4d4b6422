import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers import assert_unchanged
from scipy import sparse

from stimage import models, pp, tl
from stimage.models.regions._region import region_errors


@pytest.fixture
def region(slide):
    """A block of the slide."""
    row, col = slide.obs["grid_row"].to_numpy(), slide.obs["grid_col"].to_numpy()
    region = (row >= 3) & (row < 6) & (col >= 4) & (col < 7)
    assert region.sum() > 5
    return region


def normalised(adata):
    """log1p of counts per 10,000 from scanpy (observations x genes)."""
    other = anndata.AnnData(adata.X.copy(), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(other, target_sum=1e4)
    sc.pp.log1p(other)
    return other.X.toarray()


def with_other_counts(adata, hidden, seed=0):
    """The same AnnData with unrelated counts in some observations, none of which becomes empty."""
    counts = adata.X.toarray()
    counts[hidden] = np.random.default_rng(seed).poisson(20.0, (int(hidden.sum()), adata.n_vars)) + 1
    adata = adata.copy()
    adata.X = sparse.csr_matrix(counts)
    return adata


def test_what_is_written(slide, model, region):
    before = slide.copy()
    assert tl.reconstruct_region(slide, model, region=region) is None
    layer = slide.layers["stimage_region"]
    assert sparse.issparse(layer)
    assert (layer.format, layer.dtype, layer.shape) == ("csr", np.float32, slide.shape)
    np.testing.assert_array_equal(slide.obs["stimage_region_masked"], region)
    assert slide.obs["stimage_region_masked"].dtype == bool
    truth, filled = normalised(slide), layer.toarray()
    np.testing.assert_allclose(filled[~region], truth[~region], rtol=1e-5, atol=1e-6)
    known = slide.var_names.isin(model.genes)
    assert known.sum() == 40
    assert np.isfinite(filled[np.ix_(region, known)]).all()
    assert (filled[np.ix_(region, known)] >= 0).all()
    assert np.isnan(filled[np.ix_(region, ~known)]).all()
    assert (np.diff(layer.indptr)[region] == slide.n_vars).all()  # zeros are stored
    assert (slide.X != before.X).nnz == 0
    params = slide.uns["stimage_region"]["params"]
    assert (params["size"], params["context"], params["layer"], params["n_genes_shared"]) == (0, 8, "", 40)


def test_errors_are_those_computed_by_hand(slide, model, region):
    tl.reconstruct_region(slide, model, region=region)
    truth, filled = normalised(slide)[region], slide.layers["stimage_region"].toarray()[region]
    errors = slide.uns["stimage_region"]["errors"]
    assert errors.index.tolist() == model.genes.tolist()
    for gene, row in errors.iterrows():
        column = slide.var_names.get_loc(gene)
        a, b = truth[:, column].astype(float), filled[:, column].astype(float)
        assert row["mse"] == pytest.approx(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a), rel=1e-3)
        assert row["mae"] == pytest.approx(sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a), rel=1e-3)
        if a.std() > 1e-3 and b.std() > 1e-3:
            assert row["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-2)
    for name in ("mse", "mae", "pearson"):
        assert slide.uns["stimage_region"][name] == pytest.approx(errors[name].mean(), rel=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda slide, region: region.tolist(),
        lambda slide, region: pd.Series(region, index=slide.obs_names),
        lambda slide, region: pd.Series(region, index=slide.obs_names).iloc[::-1],
        lambda slide, region: slide.obs_names[region],
        lambda slide, region: slide.obs_names[region].tolist()[::-1],
        lambda slide, region: slide.obs_names[region].to_numpy(),
        lambda slide, region: "hidden",
        lambda slide, region: "nullable",
    ],
)
def test_regions_may_be_given_in_many_ways(slide, model, region, form):
    slide.obs["hidden"] = region
    slide.obs["nullable"] = pd.array(region, dtype="boolean")
    expected = tl.reconstruct_region(slide, model, region=region, copy=True)
    tl.reconstruct_region(slide, model, region=form(slide, region))
    np.testing.assert_array_equal(slide.obs["stimage_region_masked"], region)
    np.testing.assert_array_equal(slide.layers["stimage_region"].toarray(), expected.layers["stimage_region"].toarray())


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_blocks(slide, model, size, seed):
    tl.reconstruct_region(slide, model, size=size, seed=seed)
    hidden = slide.obs["stimage_region_masked"].to_numpy()
    row, col = slide.obs["grid_row"].to_numpy(), slide.obs["grid_col"].to_numpy()
    top, left = row[hidden].min(), col[hidden].min()
    # Every spot in some size x size box is hidden, and nothing else; the box is full of tissue.
    assert hidden.sum() >= 0.9 * size**2
    boxes = [
        (row >= r) & (row < r + size) & (col >= c) & (col < c + size)
        for r in range(top - size + 1, top + 1)
        for c in range(left - size + 1, left + 1)
    ]
    assert any((box == hidden).all() for box in boxes)
    assert slide.uns["stimage_region"]["params"]["size"] == size
    again = tl.reconstruct_region(slide, model, size=size, seed=seed, copy=True)
    np.testing.assert_array_equal(again.obs["stimage_region_masked"], hidden)


def test_seeds_move_the_block(slide, model):
    places = {
        tl.reconstruct_region(slide, model, size=2, seed=seed, copy=True)
        .obs["stimage_region_masked"]
        .to_numpy()
        .tobytes()
        for seed in range(3)
    }
    assert len(places) > 1


@pytest.mark.parametrize("options", [{"size": 3}, {"size": 3, "seed": 5, "context": 2}, {"region": "hidden"}])
def test_hidden_counts_do_not_leak(slide, model, region, options):
    slide.obs["hidden"] = region
    first = tl.reconstruct_region(slide, model, copy=True, **options)
    hidden = first.obs["stimage_region_masked"].to_numpy()
    second = tl.reconstruct_region(with_other_counts(slide, hidden), model, copy=True, **options)
    np.testing.assert_array_equal(second.obs["stimage_region_masked"], hidden)
    np.testing.assert_array_equal(second.layers["stimage_region"].toarray(), first.layers["stimage_region"].toarray())
    assert first.uns["stimage_region"]["mse"] != second.uns["stimage_region"]["mse"]
    # The visible counts do matter.
    third = tl.reconstruct_region(with_other_counts(slide, ~hidden), model, copy=True, region=hidden)
    known = slide.var_names.isin(model.genes)
    change = third.layers["stimage_region"].toarray() - first.layers["stimage_region"].toarray()
    assert np.abs(change[np.ix_(hidden, known)]).max() > 0.1


def test_hidden_counts_of_cells_in_bins_do_not_leak(cells, model):
    site = cells.obs["grid_row"].to_numpy() * 1000 + cells.obs["grid_col"].to_numpy()
    shared = pd.Series(site).value_counts()
    named = np.zeros(cells.n_obs, dtype=bool)
    named[[np.flatnonzero(site == place)[0] for place in shared.index[:3]]] = True  # one cell of each bin
    first = tl.reconstruct_region(cells, model, region=named, copy=True)
    hidden = first.obs["stimage_region_masked"].to_numpy()
    np.testing.assert_array_equal(hidden, np.isin(site, shared.index[:3]))  # the bins are hidden as a whole
    assert hidden.sum() > named.sum()
    filled = first.layers["stimage_region"].toarray()
    for place in shared.index[:3]:
        assert (filled[site == place][:, :1] == filled[site == place][0, :1]).all() or np.isnan(
            filled[site == place][0, 0]
        )
    second = tl.reconstruct_region(with_other_counts(cells, hidden), model, region=named, copy=True)
    np.testing.assert_array_equal(second.layers["stimage_region"].toarray(), filled)
    # Errors are those of the bins, from the counts of their cells together.
    pooled = anndata.AnnData(
        sparse.csr_matrix([cells.X[site == place].toarray().sum(axis=0) for place in shared.index[:3]]),
        var=cells.var[[]],
    )
    known = cells.var_names.get_indexer(model.genes)
    truth = normalised(pooled)[:, known]
    predicted = np.array([filled[site == place][0] for place in shared.index[:3]])[:, known]
    np.testing.assert_allclose(
        first.uns["stimage_region"]["errors"]["mse"], ((truth - predicted) ** 2).mean(axis=0), rtol=1e-3, atol=1e-6
    )


def test_two_slides(pair, parts, model):
    names = pair.obs["slide"].cat.categories
    hidden = (pair.obs["grid_row"] < 4).to_numpy()
    tl.reconstruct_region(pair, model, region=hidden)
    filled = pair.layers["stimage_region"].toarray()
    for name, part in zip(names, parts, strict=True):
        members = (pair.obs["slide"] == name).to_numpy()
        assert 0 < hidden[members].sum() < members.sum()
        tl.reconstruct_region(part, model, region=hidden[members])
        np.testing.assert_allclose(filled[members], part.layers["stimage_region"].toarray(), atol=1e-5)
    # Errors over both slides are those of the slides, weighted by their hidden spots.
    n_hidden = [part.obs["stimage_region_masked"].sum() for part in parts]
    mean = np.average([part.uns["stimage_region"]["errors"]["mse"] for part in parts], axis=0, weights=n_hidden)
    np.testing.assert_allclose(pair.uns["stimage_region"]["errors"]["mse"], mean, rtol=1e-4)


def test_a_region_of_one_slide_leaves_the_other_as_measured(pair, model):
    hidden = ((pair.obs["grid_row"] < 4) & (pair.obs["slide"] == "slide_2")).to_numpy()
    tl.reconstruct_region(pair, model, region=hidden)
    np.testing.assert_array_equal(pair.obs["stimage_region_masked"], hidden)
    filled = pair.layers["stimage_region"].toarray()
    np.testing.assert_allclose(filled[~hidden], normalised(pair)[~hidden], rtol=1e-5, atol=1e-6)
    tl.reconstruct_region(pair, model, size=3, key_added="block")
    assert pair.obs.loc[pair.obs["block_masked"], "slide"].nunique() == 1


def test_spots_without_counts_are_filled_but_not_scored(slide, model, region):
    counts = slide.X.toarray()
    empty = np.flatnonzero(region)[:2]
    counts[empty] = 0
    slide.X = sparse.csr_matrix(counts)
    tl.reconstruct_region(slide, model, region=region)
    known = slide.var_names.get_indexer(model.genes)
    filled = slide.layers["stimage_region"].toarray()[:, known]
    assert np.isfinite(filled[empty]).all()
    scored = np.setdiff1d(np.flatnonzero(region), empty)
    difference = (filled - normalised(slide)[:, known])[scored]
    np.testing.assert_allclose(
        slide.uns["stimage_region"]["errors"]["mse"], (difference**2).mean(axis=0), rtol=1e-3, atol=1e-6
    )


@pytest.mark.filterwarnings("error")
def test_a_region_without_counts_has_no_errors(slide, model, region):
    counts = slide.X.toarray()
    counts[region] = 0
    slide.X = sparse.csr_matrix(counts)
    tl.reconstruct_region(slide, model, region=region)
    known = slide.var_names.isin(model.genes)
    assert np.isfinite(slide.layers["stimage_region"].toarray()[np.ix_(region, known)]).all()
    assert slide.uns["stimage_region"]["errors"].isna().all(axis=None)
    assert np.isnan(slide.uns["stimage_region"]["mse"])


def test_genes_the_slide_lacks(slide, model, region):
    some = slide[:, ~slide.var_names.isin(model.genes[:10])].copy()
    tl.reconstruct_region(some, model, region=region)
    assert some.uns["stimage_region"]["errors"].index.tolist() == model.genes[10:].tolist()
    assert some.layers["stimage_region"].shape == some.shape


def test_copy_and_key(slide, model, region):
    with assert_unchanged(slide):
        copy = tl.reconstruct_region(slide, model, region=region, key_added="hole", copy=True)
    assert {"hole"} == set(copy.layers) - set(slide.layers) == set(copy.uns) - set(slide.uns)
    assert set(copy.obs) - set(slide.obs) == {"hole_masked"}


def test_known_errors():
    truth = np.array([[0.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 1.0], [2.0, 3.0, 2.0, 3.0]])
    prediction = np.array([[1.0, 6.0, 0.0, 2.0], [3.0, 4.0, 1.0, 2.0], [5.0, 2.0, 5.0, 2.0]])
    errors = region_errors(prediction, truth, np.array(list("abcd")))
    assert errors.index.tolist() == list("abcd")
    np.testing.assert_allclose(errors["pearson"], [1, -1, np.nan, np.nan], atol=1e-12)
    np.testing.assert_allclose(errors["mse"], [14 / 3, 30 / 3, 14 / 3, 11 / 3])
    np.testing.assert_allclose(errors["mae"], [2, 8 / 3, 2, 5 / 3])
    half = region_errors(
        np.array([[1.0], [0.0], [0.0], [1.0]]), np.array([[1.0], [0.0], [1.0], [1.0]]), np.array(["a"])
    )
    assert half["pearson"].item() == pytest.approx(1 / np.sqrt(3))


def test_genes_named_by_ensembl_id(slide, pretrain):
    ids = [f"ENSG{number:011}" for number in range(slide.n_vars)]
    slide.var["gene_ids"] = ids
    model = pretrain(slide)
    renamed = slide.copy()
    renamed.var_names = ids
    for adata in (slide, renamed):
        tl.reconstruct_region(adata, model, size=3)
    np.testing.assert_array_equal(renamed.layers["stimage_region"].toarray(), slide.layers["stimage_region"].toarray())
    expected = slide.uns["stimage_region"]["errors"]
    expected.index = renamed.var_names[slide.var_names.get_indexer(expected.index)]
    assert renamed.uns["stimage_region"]["errors"].equals(expected)


def test_bounds(slide, model, region):
    plain = tl.reconstruct_region(slide, model, region=region, copy=True)
    tl.reconstruct_region(slide, model, region=region, interval=0.8)
    layers = [slide.layers[f"stimage_region{end}"].toarray() for end in ("", "_lower", "_upper")]
    np.testing.assert_array_equal(layers[0], plain.layers["stimage_region"].toarray())
    for bound in layers[1:]:
        np.testing.assert_array_equal(bound[~region], layers[0][~region])
    known = slide.var_names.isin(model.genes)
    lower, upper = (bound[np.ix_(region, known)] for bound in layers[1:])
    assert (lower <= upper).all()
    assert (lower >= 0).all()
    assert np.isnan(layers[1][np.ix_(region, ~known)]).all()
    truth = normalised(slide)[np.ix_(region, known)]
    inside = (truth >= lower - 1e-5) & (truth <= upper + 1e-5)
    assert 0.6 < inside.mean() < 1.0
    written = slide.uns["stimage_region"]
    coverage = pd.Series(inside.mean(axis=0), index=slide.var_names[known])
    np.testing.assert_allclose(written["errors"]["coverage"], coverage[written["errors"].index], atol=1e-6)
    assert written["coverage"] == pytest.approx(inside.mean())
    assert written["params"]["interval"] == 0.8
    assert "coverage" not in plain.uns["stimage_region"]["errors"]
    # Bounds of an earlier region do not stay.
    tl.reconstruct_region(slide, model, region=region)
    assert set(slide.layers) == {"stimage_region"}


def test_memory_follows_the_region_and_not_the_slide():
    """Peak memory: what an observation adds is its own counts, and not all genes."""
    genes = [f"g{i}" for i in range(500)]

    def slide_of(n_rows):
        row, col = np.divmod(np.arange(n_rows * 40), 40)
        obs = pd.DataFrame({"array_row": row, "array_col": 2 * col + row % 2}, index=[f"s{i}" for i in range(len(row))])
        counts = sparse.random(
            len(row), 500, density=0.01, format="csr", rng=np.random.default_rng(0), dtype=np.float32
        )
        counts.data[:] = 1
        adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
        pp.compact_grid(adata, layout="hex")
        adata.obs["hole"] = (row < 3) & (col < 3)
        return adata

    model = models.STImage(slide_of(20), genes=genes, window=6, spectral_start=False)

    def peak(adata):
        tracemalloc.start()
        tl.reconstruct_region(adata, model, region="hole")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    tl.reconstruct_region(slide_of(20), model, region="hole")  # what is loaded at the first call
    small, large = slide_of(40), slide_of(200)
    per_observation = (peak(large) - peak(small)) / (large.n_obs - small.n_obs)
    assert per_observation < 1000  # of which 2,000 would be all genes, once


@pytest.mark.parametrize(("interval", "error"), [(0.0, ValueError), (1.5, ValueError), ("wide", TypeError)])
def test_bad_interval(slide, model, interval, error):
    with assert_unchanged(slide), pytest.raises(error, match="interval"):
        tl.reconstruct_region(slide, model, size=2, interval=interval)
