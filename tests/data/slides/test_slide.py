import hashlib

import numpy as np
import pytest
import scanpy as sc
from anndata import concat
from helpers import assert_unchanged
from scipy import sparse
from slides import random_slide, visium

from stimage import pp
from stimage.data import Corpus, Slide
from stimage.data.slides._spot_sketch import read_sketch, spot_hashes, spot_sketch


def normalised(adata):
    """log1p of counts per 10,000 over all genes, by scanpy."""
    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    return copy.to_df()


@pytest.fixture
def adata():
    adata = visium()
    pp.compact_grid(adata)
    return adata


def test_expression_is_normalised_over_all_genes(adata):
    genes = ["gene5", "absent", "gene0", "gene11"]
    with assert_unchanged(adata):
        slide = Slide.from_anndata(adata, np.array(genes))
    expected = normalised(adata).reindex(columns=genes).fillna(0).to_numpy()
    np.testing.assert_allclose(slide.expression[slide.site_of_observation].toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(slide.measured, [True, False, True, True])
    np.testing.assert_allclose(slide.library_size[slide.site_of_observation], np.ravel(adata.X.sum(axis=1)))
    assert slide.expression.dtype == np.float32
    assert slide.expression.has_sorted_indices


@pytest.mark.parametrize("target_sum", [10.0, 1e3, 1e6])
def test_another_target_sum(adata, target_sum):
    genes = adata.var_names[3:9].to_numpy()
    slide = Slide.from_anndata(adata, genes)
    before = slide.expression.copy()
    counts = adata.X.toarray().astype(np.float64)
    expected = np.log1p(target_sum * counts / counts.sum(axis=1, keepdims=True))[:, 3:9]
    other = slide.to_target_sum(target_sum)
    np.testing.assert_allclose(other.expression[other.site_of_observation].toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(other.gene_mean, expected.mean(axis=0), rtol=1e-5)
    assert (slide.target_sum, other.target_sum) == (1e4, target_sum)
    assert other.expression.dtype == np.float32
    assert (slide.expression != before).nnz == 0
    np.testing.assert_allclose(other.to_target_sum(1e4).expression.toarray(), before.toarray(), rtol=1e-4)
    (of_corpus,) = Corpus.from_anndata(adata, genes=genes).to_target_sum(target_sum)
    assert (of_corpus.expression != other.expression).nnz == 0


def test_the_same_target_sum(adata):
    slide = Slide.from_anndata(adata, adata.var_names.to_numpy())
    assert slide.to_target_sum(1e4) is slide
    centred = slide.restrict(slide.raster >= 0, centre=slide.gene_mean)
    assert centred.to_target_sum(1e4) is centred
    with pytest.raises(ValueError, match="'slide' has its own `centre`: change `target_sum` before"):
        centred.to_target_sum(1e3)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csc_matrix, lambda x: sparse.csr_matrix(x).astype(np.int64)])
def test_matrix_types_and_layers(adata, convert):
    expected = Slide.from_anndata(adata, adata.var_names.to_numpy()).expression
    adata.layers["counts"] = convert(adata.X.toarray())
    adata.X = adata.X * 0
    slide = Slide.from_anndata(adata, adata.var_names.to_numpy(), layer="counts")
    assert abs(slide.expression - expected).max() == 0


def test_sites_are_numbered_in_raster_order(adata):
    adata = adata[:-9].copy()
    pp.compact_grid(adata)
    slide = Slide.from_anndata(adata, adata.var_names.to_numpy())
    tissue = slide.raster[slide.raster >= 0]
    np.testing.assert_array_equal(tissue, np.arange(adata.n_obs))
    rows, cols = slide.site_index[slide.site_of_observation].T
    np.testing.assert_array_equal(rows, adata.obs["grid_row"])
    np.testing.assert_array_equal(cols, adata.obs["grid_col"])
    np.testing.assert_array_equal(slide.raster[rows, cols], slide.site_of_observation)


def test_observations_of_one_bin_are_added_up():
    rng = np.random.default_rng(0)
    adata = visium(8, 8)
    del adata.obs["array_row"], adata.obs["array_col"]
    adata.obsm["spatial"] = rng.uniform(0, 100, (adata.n_obs, 2))
    pp.compact_grid(adata, layout="bins", bin_size=25.0)
    slide = Slide.from_anndata(adata, adata.var_names.to_numpy())
    site = adata.obs["grid_row"].to_numpy() * 1000 + adata.obs["grid_col"].to_numpy()
    sums = adata.to_df().groupby(site).sum()
    assert slide.n_sites == len(sums) < adata.n_obs
    expected = np.log1p(sums.to_numpy() / sums.sum(axis=1).to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(slide.expression.toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(sums.index[slide.site_of_observation], site)


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
def test_sites_without_counts_are_not_active():
    adata = visium()
    counts = adata.X.toarray()
    counts[[3, 10]] = 0
    adata.X = sparse.csr_matrix(counts)
    pp.compact_grid(adata)
    slide = Slide.from_anndata(adata, adata.var_names.to_numpy())
    active = slide.active[slide.site_of_observation]
    assert np.flatnonzero(~active).tolist() == [3, 10]
    assert np.isfinite(slide.expression.data).all()
    np.testing.assert_allclose(slide.gene_mean, normalised(adata).to_numpy()[active].mean(axis=0), rtol=1e-5)


def test_hidden_sites_leave_the_means():
    slide = random_slide()
    hidden = np.arange(slide.n_sites) % 3 == 0
    shown = slide.hide(hidden)
    dense = slide.expression.toarray()
    np.testing.assert_array_equal(shown.active, slide.active & ~hidden)
    np.testing.assert_allclose(shown.gene_mean, dense[slide.active & ~hidden].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slide.gene_mean, dense[slide.active].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_a_sketch_estimates_the_overlap_of_observations(adata):
    names, totals = np.array([f"barcode{i}" for i in range(500)]), np.arange(500) % 50
    hashes = [hashlib.sha256(f"{a}\t{b}".encode()).hexdigest()[:12] for a, b in zip(names, totals, strict=True)]

    def sketch(names, totals):
        return spot_sketch(names, totals, sparse.csr_matrix(totals[:, None]).__getitem__, ["gene"])

    def pairs(text):
        return read_sketch(text)[0]

    assert sketch(names, totals).split()[:-1] == sorted(hashes)[:64]
    shuffled = np.random.default_rng(0).permutation(500)
    assert pairs(sketch(names[shuffled], totals[shuffled])) == pairs(sketch(names, totals))
    half = pairs(sketch(names, totals)) & spot_hashes(names[::2], totals[::2])
    assert 16 < len(half) < 48
    assert not pairs(sketch(names, totals)) & spot_hashes(names, totals + 1)
    genes = adata.var_names[:3]
    whole, part = (Slide.from_anndata(a, genes, name="slide") for a in (adata, adata[::-1]))
    expected = spot_sketch(
        adata.obs_names, adata.X.sum(axis=1).A1, adata.X.__getitem__, adata.var_names, adata.obsm["spatial"]
    )
    assert pairs(whole.spot_sketch) == pairs(part.spot_sketch) == pairs(expected)
    assert whole.spot_sketch == expected


def test_donors(adata):
    adata.obs["donor"] = ["ann", None] * (adata.n_obs // 2)
    options = {"genes": adata.var_names[:3]}
    assert Corpus.from_anndata(adata, **options, donor_key="donor")[0].donor == "ann"
    assert Corpus.from_anndata(adata, **options)[0].donor == ""
    adata.obs["donor"] = ["ann", "bob"] * (adata.n_obs // 2)
    with pytest.raises(ValueError, match=r"Slide 'slide' has 2 donors in adata.obs\['donor'\] \(`donor_key`\)"):
        Corpus.from_anndata(adata, **options, donor_key="donor")
    with pytest.raises(KeyError, match="`donor_key`='patient' is not in adata.obs"):
        Corpus.from_anndata(adata, **options, donor_key="patient")


def test_restricting_leaves_part_of_the_raster():
    slide = random_slide()
    allowed = np.zeros(slide.shape, dtype=bool)
    allowed[2:6, 3:] = True
    part = slide.restrict(allowed)
    np.testing.assert_array_equal(part.raster, np.where(allowed, slide.raster, -1))
    left = np.isin(np.arange(slide.n_sites), slide.raster[2:6, 3:])
    np.testing.assert_array_equal(part.active, slide.active & left)
    np.testing.assert_array_equal(part.site_index[~left], -1)
    dense = slide.expression.toarray()
    np.testing.assert_allclose(part.gene_mean, dense[part.active].mean(axis=0), rtol=1e-4, atol=1e-6)
    centre = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(slide.restrict(allowed, centre=centre).gene_mean, centre)


def test_unknown_slide(adata):
    with pytest.raises(KeyError, match="Slide 'other' is not in"):
        Slide.from_anndata(adata, adata.var_names.to_numpy(), name="other")


# Corpus


def two_slides(*, odd=(False, True)):
    parts = [visium(6, 5, odd=odd[0], seed=1), visium(5, 7, odd=odd[1], seed=2)]
    return concat({"a/1": parts[0], "b": parts[1]}, label="slide", index_unique="-"), parts


def test_slide_key_or_list():
    both, parts = two_slides()
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    pp.compact_grid(both, slide_key="slide")
    for part in parts:
        pp.compact_grid(part)
    genes = [f"gene{i}" for i in range(1, 9)]
    together = Corpus.from_anndata(both, genes=genes)
    apart = Corpus.from_anndata(parts, genes=genes)
    assert [slide.name for slide in together] == ["a/1", "b"]
    assert [slide.name for slide in apart] == ["slide-1", "slide-2"]
    assert together.n_sites == apart.n_sites == both.n_obs
    for first, second in zip(together, apart, strict=True):
        np.testing.assert_array_equal(first.raster, second.raster)
        assert (first.layout, first.parity) == (second.layout, second.parity)
        assert abs(first.expression - second.expression).max() == 0
        assert (both.obs["slide"].iloc[first.observation_index] == first.name).all()
    covered = np.concatenate([slide.observation_index for slide in together])
    np.testing.assert_array_equal(np.sort(covered), np.arange(both.n_obs))
    np.testing.assert_array_equal(covered[together.observation_order], np.arange(both.n_obs))
    np.testing.assert_array_equal(apart.observation_order, np.arange(both.n_obs))


def test_slide_that_the_grid_does_not_know():
    both, _ = two_slides()
    pp.compact_grid(both, slide_key="slide")
    both.obs["donor"] = both.obs["slide"].astype(str).replace("b", "c")
    with pytest.raises(ValueError, match=r"knows no slide 'c' of adata.obs\['donor'\] \(`slide_key`\).*compact_grid"):
        Corpus.from_anndata(both, genes=both.var_names, slide_key="donor")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda adata: adata.uns.pop("grid"), KeyError, "compact_grid"),
        (lambda adata: setattr(adata, "X", np.log1p(adata.X.toarray())), ValueError, "log-transformed.*raw counts"),
        (lambda adata: setattr(adata, "X", -adata.X), ValueError, "negative"),
        (lambda adata: setattr(adata, "var_names", ["gene1"] * adata.n_vars), ValueError, "repeated names"),
        (lambda adata: setattr(adata, "var_names", [f"ENSG{i:011}" for i in range(12)]), ValueError, "Ensembl"),
    ],
)
def test_bad_input(adata, change, error, message):
    genes = adata.var_names.to_numpy()
    change(adata)
    with assert_unchanged(adata), pytest.raises(error, match=message):
        Corpus.from_anndata(adata, genes=genes)
    with assert_unchanged(adata), pytest.raises(KeyError, match="`layer`='raw'"):
        Corpus.from_anndata(adata, genes=genes, layer="raw")


def test_corpus_checks_its_slides():
    slide = random_slide()
    with pytest.raises(ValueError, match="at least one slide"):
        Corpus([], ["a", "b"])
    with pytest.raises(ValueError, match="'slide' has 6 genes, the vocabulary has 5"):
        Corpus([slide], [f"gene{i}" for i in range(5)])
    with pytest.raises(ValueError, match="must be unique"):
        Corpus([slide, slide], [f"gene{i}" for i in range(6)])
    with pytest.raises(ValueError, match="`genes` has 1 genes, at least 2"):
        Corpus([slide], ["gene"])
    with pytest.raises(ValueError, match="`genes` has repeated names \\('b'\\)"):
        Corpus([slide], list("abcdeb"))
