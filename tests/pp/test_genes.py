import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from helpers import assert_unchanged
from scipy import sparse

from stimage import pp
from stimage.pp._genes import _local_quadratic, _standardized_variance


def simulated(n_obs=200, genes=range(300), *, variable=(), seed=0):
    """Counts of Poisson noise; genes in ``variable`` are three times higher in half of the observations."""
    rng = np.random.default_rng(seed)
    genes = [f"g{gene}" for gene in genes]
    level = np.random.default_rng(1).lognormal(0.0, 1.0, 10_000)[[int(gene[1:]) for gene in genes]]
    rate = np.tile(level, (n_obs, 1))
    rate[: n_obs // 2, [gene in variable for gene in genes]] *= 5
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names, adata.var_names = [f"o{i}" for i in range(n_obs)], genes
    return adata


VARIABLE = [f"g{gene}" for gene in (3, 50, 77, 120, 240)]


def slow_standardized_variance(dense, deviation):
    """Clip each count at the mean plus sqrt(n) standard deviations of the trend, then the variance around the mean."""
    n = len(dense)
    result = []
    for values, spread in zip(dense.T, deviation, strict=True):
        mean = values.mean()
        clipped = [min(value, mean + spread * np.sqrt(n)) for value in values]
        result.append(sum((value - mean) ** 2 for value in clipped) / (n - 1) / spread**2)
    return np.array(result)


def test_standardized_variance_against_a_dense_loop():
    adata = simulated(60, range(80), variable=VARIABLE)
    dense = adata.X.toarray().astype(float)
    dense[0, 5] = 500  # clipped
    dense[:, 7] = 0
    dense[:, 8] = 4  # constant
    mean, found = _standardized_variance(sparse.csr_matrix(dense))
    varies = dense.var(axis=0) > 0
    assert (found[~varies] == 0).all()
    trend = _local_quadratic(np.log10(dense.mean(axis=0)[varies]), np.log10(dense.var(axis=0, ddof=1)[varies]))
    np.testing.assert_allclose(mean, dense.mean(axis=0))
    np.testing.assert_allclose(
        found[varies], slow_standardized_variance(dense[:, varies], np.sqrt(10**trend)), rtol=1e-9
    )


@pytest.mark.parametrize("form", [np.asarray, sparse.csc_matrix, sparse.csr_array])
def test_storage_does_not_matter(form):
    dense = simulated(50, range(40)).X.toarray()
    np.testing.assert_allclose(_standardized_variance(form(dense)), _standardized_variance(sparse.csr_matrix(dense)))
    # Entries stored twice add up, also in their squares.
    once = sparse.csr_matrix(dense)
    twice = sparse.csr_matrix((np.repeat(once.data / 2, 2), np.repeat(once.indices, 2), once.indptr * 2), once.shape)
    np.testing.assert_allclose(_standardized_variance(twice), _standardized_variance(dense))


def test_trend_recovers_a_parabola():
    x = np.sort(np.random.default_rng(0).uniform(-2, 2, 500))
    y = 1 - 2 * x + 0.5 * x**2
    np.testing.assert_allclose(_local_quadratic(x, y), y, atol=2e-3)
    np.testing.assert_allclose(_local_quadratic(np.ones(20), np.arange(20.0)), 9.5)


def test_against_scanpy():
    pytest.importorskip("skmisc")
    import scanpy as sc

    adata = simulated(300, range(1500), variable=[f"g{gene}" for gene in range(0, 1500, 10)])
    theirs = sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=150, inplace=False)
    ours = pp.select_genes(adata, n_genes=150)
    both = set(ours.genes) & set(theirs.index[theirs["highly_variable"]])
    assert len(both) >= 145
    standardized = ours.table["variance_standardized"][theirs.index]
    assert np.corrcoef(standardized, theirs["variances_norm"])[0, 1] > 0.99


def test_variable_genes_come_first_and_nothing_is_written():
    slides = [simulated(seed=seed, variable=VARIABLE) for seed in range(3)]
    with assert_unchanged(*slides):
        pool = pp.select_genes(slides, n_genes=5)
    assert set(pool.genes) == set(VARIABLE)
    assert len(pool) == 5
    assert pool.genes == pool.table.index[pool.table["highly_variable"]].tolist()
    assert pool.table["rank"].tolist() == list(range(300))
    assert (pool.table["n_slides"] == 3).all()
    np.testing.assert_allclose(
        pool.table["mean"], np.mean([slide.to_df()[pool.table.index].mean() for slide in slides], axis=0), rtol=1e-5
    )
    pd.testing.assert_frame_equal(pool.table, pp.select_genes(slides, n_genes=5).table)


def test_one_anndata_of_many_slides_equals_a_list():
    slides = {"a": simulated(seed=0, variable=VARIABLE), "b": simulated(80, seed=1)}
    together = concat(slides, label="section", index_unique="-")
    together = together[np.random.default_rng(0).permutation(together.n_obs)].copy()
    split = pp.select_genes(together, n_genes=50, slide_key="section")
    listed = pp.select_genes(list(slides.values()), n_genes=50)
    assert split.genes == listed.genes
    assert split.overlap.index.tolist() == ["a", "b"]
    assert listed.overlap.index.tolist() == ["0", "1"]
    assert split.overlap["n_observations"].tolist() == [200, 80]


def test_inner_and_outer_panels():
    slides = [simulated(genes=range(0, 200)), simulated(genes=range(100, 300)), simulated(genes=range(150, 400))]
    inner = pp.select_genes(slides)
    assert set(inner.genes) == {f"g{gene}" for gene in range(150, 200)}
    assert inner.overlap["n_genes"].tolist() == [200, 200, 250]
    assert inner.overlap["candidates"].tolist() == [50, 50, 50]
    assert inner.overlap["fraction_selected"].tolist() == [1.0, 1.0, 1.0]
    outer = pp.select_genes(slides, join="outer")
    assert set(outer.genes) == {f"g{gene}" for gene in range(400)}
    assert outer.overlap["selected"].tolist() == [200, 200, 250]
    two = pp.select_genes(slides, join="outer", min_slides=2)
    assert set(two.genes) == {f"g{gene}" for gene in range(100, 300)}
    assert two.table.loc["g160", "n_slides"] == 3
    assert two.overlap["candidates"].tolist() == [100, 200, 150]


def test_a_small_panel_has_no_advantage():
    """Ranks are shares of the panel: the last of 40 genes is as far down as the last of 300."""
    large = simulated(variable=VARIABLE)
    small = simulated(genes=[*range(300, 339), 50], variable=["g50"], seed=1)
    table = pp.select_genes([large, small], join="outer").table
    only_small = table.loc[[f"g{gene}" for gene in range(300, 339)], "median_rank"]
    assert set(np.rint(only_small * 40)) <= set(range(1, 41))
    assert only_small.is_unique
    assert only_small.max() == 1


def test_genes_without_counts_are_not_chosen():
    adata = simulated(50, range(30))
    adata.X = adata.X.multiply(np.arange(30) >= 10).tocsr()
    pool = pp.select_genes(adata, n_genes=30)
    assert len(pool) <= 20
    assert not set(pool.genes) & {f"g{gene}" for gene in range(10)}


def test_layer_holds_the_counts():
    adata = simulated(variable=VARIABLE)
    adata.layers["counts"] = adata.X.copy()
    expected = pp.select_genes(adata, n_genes=20).genes
    adata.X = np.log1p(adata.X)
    assert pp.select_genes(adata, n_genes=20, layer="counts").genes == expected


def _named(names, **arguments):
    adata = simulated(30, range(len(names)), **arguments)
    adata.var_names = names
    return adata


SYMBOLS = _named(["GFAP", "MBP", "NPY", "HBB"])
ENSEMBL = _named([f"ENSG0000013{i:04d}" for i in range(4)])
MOUSE = _named(["Gfap", "Mbp", "Npy", "Hbb"])
OTHER = _named(["A1", "A2", "A3", "A4"])
LOGGED = _named(["GFAP", "MBP", "NPY", "HBB"])
LOGGED.X = np.log1p(LOGGED.X)
REPEATED = _named(["GFAP", "MBP", "NPY", "HBB"])
REPEATED.var_names = ["GFAP", "GFAP", "NPY", "HBB"]
CONSTANT = AnnData(np.ones((5, 4)))

BAD = {
    "empty list": ([], {}, ValueError, "`adatas` is an empty list"),
    "not AnnData": ([SYMBOLS, 3], {}, TypeError, r"`adatas\[1\]` must be an AnnData, found int"),
    "logged": ([SYMBOLS, LOGGED], {}, ValueError, r"`adatas\[1\]`: adata.X holds .* looks log-transformed"),
    "repeated genes": ([REPEATED], {}, ValueError, r"`adatas\[0\]`: .*var_names.* repeated names .e.g. 'GFAP'"),
    "layer": ([SYMBOLS], {"layer": "counts"}, KeyError, "`layer`='counts' is not in adata.layers"),
    "slide_key": (SYMBOLS, {"slide_key": "s"}, KeyError, "`adatas`: `slide_key`='s' is not in adata.obs"),
    "n_genes": (SYMBOLS, {"n_genes": 0}, ValueError, "`n_genes` must be at least 1, found 0"),
    "n_genes type": (SYMBOLS, {"n_genes": 1.5}, TypeError, "`n_genes` must be an integer, found float"),
    "join": (SYMBOLS, {"join": "left"}, ValueError, "`join` must be one of 'inner', 'outer', found 'left'"),
    "min_slides": (SYMBOLS, {"min_slides": 2}, ValueError, "`min_slides`=2 exceeds the number of slides, 1"),
    "Ensembl": (
        [SYMBOLS, ENSEMBL],
        {},
        ValueError,
        "'GFAP', 'MBP', 'NPY' and 1 more; .*'ENSG00000130000'.*Ensembl ids",
    ),
    "Ensembl outer": ([SYMBOLS, SYMBOLS, ENSEMBL], {"join": "outer"}, ValueError, "slide '2' has 'ENSG.*Ensembl ids"),
    "species": ([SYMBOLS, MOUSE], {}, ValueError, "'GFAP'.*'Gfap'.*upper and lower case only"),
    "names": ([SYMBOLS, OTHER], {}, ValueError, "No gene in common: .*'GFAP'.*'A1'.*the same way"),
    "chain": (
        [_named(["a", "b"]), _named(["b", "c"]), _named(["c", "a"])],
        {},
        ValueError,
        "No gene is measured in enough slides .*`join`='outer'",
    ),
    "constant": (CONSTANT, {}, ValueError, "No candidate gene varies"),
    "one spot": ([SYMBOLS, SYMBOLS[:1].copy()], {}, ValueError, r"`adatas\[1\]`: .*1 observations, at least 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    adatas, arguments, error, message = BAD[case]
    slides = [slide for slide in (adatas if isinstance(adatas, list) else [adatas]) if isinstance(slide, AnnData)]
    with assert_unchanged(*slides), pytest.raises(error, match=message):
        pp.select_genes(adatas, **arguments)


def test_slides_of_one_name_in_two_anndata():
    slides = [simulated(20, range(5), seed=seed) for seed in range(2)]
    for slide in slides:
        slide.obs["s"] = "section"
    with pytest.raises(ValueError, match="slides of the same name .'section'."):
        pp.select_genes(slides, slide_key="s")
    slides[0].obs["s"] = ["x"] + ["y"] * 19
    with pytest.raises(ValueError, match="slide 'x' has one observation"):
        pp.select_genes(slides[0], slide_key="s")
