"""Genes that vary in tissues known from other donors."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stimage import datasets, pp, pretrained, tl
from stimage.pretrained import KnownTissues, _tissues
from stimage.pretrained._tissues import LEAST_CORRELATION, gene_variances

N_GENES = 900
CONTAMINATION = 6
"""Genes that are counted in the tested section alone."""


def with_grid(adata, donor):
    adata = adata.copy()
    adata.obs["donor"] = donor
    pp.compact_grid(adata)
    return adata


@pytest.fixture(scope="module")
def sections():
    """Two sections of one tissue and one of another, of the same genes; the first is contaminated."""
    both = datasets.simulate_tissue(n_rows=16, n_cols=16, n_genes=N_GENES, n_slides=2, seed=0)
    first, second = (both[both.obs["slide"] == name].copy() for name in both.obs["slide"].unique())
    other = datasets.simulate_tissue(n_rows=16, n_cols=16, n_genes=N_GENES, seed=5)
    other.var_names = both.var_names[np.random.default_rng(0).permutation(N_GENES)]
    rng = np.random.default_rng(0)
    across = np.argsort(np.argsort(first.obsm["spatial"][:, 0])) / first.n_obs
    spilled = rng.poisson(40 * across[:, None] ** 3 * np.ones((1, CONTAMINATION)))
    contaminated = sparse.csr_matrix(first.X).tolil()
    contaminated[:, :CONTAMINATION] = spilled
    first.X = contaminated.tocsr()
    clean = sparse.csr_matrix(second.X).tolil()
    clean[:, :CONTAMINATION] = 0
    second.X = clean.tocsr()
    return with_grid(first, "a"), with_grid(second, "b"), with_grid(other, "c")


def reference(adata, slides=None):
    """Variance of log1p of counts per 1,000 by numpy, within slides."""
    counts = np.asarray(sparse.csr_matrix(adata.X).todense(), dtype=float)
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1000)
    slides = np.zeros(len(values)) if slides is None else np.asarray(slides)
    for slide in np.unique(slides):
        values[slides == slide] -= values[slides == slide].mean(axis=0)
    return np.square(values).mean(axis=0)


def test_variances_are_those_of_numpy(sections, tmp_path):
    adata = sections[0]
    found = gene_variances(adata)
    np.testing.assert_allclose(found, reference(adata), rtol=1e-10)
    assert found.index.tolist() == adata.var_names.tolist()
    adata.write_h5ad(tmp_path / "slide.h5ad")
    backed = anndata.read_h5ad(tmp_path / "slide.h5ad", backed="r")
    np.testing.assert_allclose(gene_variances(backed), found, rtol=1e-10)
    dense = adata.copy()
    dense.X = dense.X.toarray()
    np.testing.assert_allclose(gene_variances(dense), found, rtol=1e-10)


def test_variances_are_within_slides_and_of_observations_with_counts(sections):
    first, second, _ = sections
    both = anndata.concat([first, second], label="section", index_unique="-")
    pp.compact_grid(both, slide_key="section")
    np.testing.assert_allclose(gene_variances(both), reference(both, both.obs["section"]), rtol=1e-10)
    empty = first.copy()
    empty.X = sparse.diags((np.arange(first.n_obs) >= 7).astype(first.X.dtype)).tocsr() @ first.X
    np.testing.assert_allclose(gene_variances(empty), reference(empty[7:]), rtol=1e-10)


def test_variances_of_large_slides_are_those_of_a_sample(sections, monkeypatch):
    monkeypatch.setattr(_tissues, "MOST_OBSERVATIONS", 150)
    found, again = gene_variances(sections[0]), gene_variances(sections[0])
    pd.testing.assert_series_equal(found, again)
    whole = reference(sections[0])
    assert 0 < np.abs(found - whole).max() and np.corrcoef(found, whole)[0, 1] > 0.97


def test_tissues_are_medians_over_donors(sections):
    first, second, other = sections
    narrow = second[:, 50:].copy()
    narrow.obs["donor"] = "d"
    again = first.copy()  # another section of the same donor counts as one with it
    known = KnownTissues.from_anndata({"tissue": [first, again, other[:, first.var_names].copy(), narrow]})
    of_donors = np.stack([reference(first), reference(other[:, first.var_names]), reference(second)])
    place = first.var_names.get_indexer(known.vocabulary.genes)
    of_donors[2, :50] = np.nan
    # `narrow` has other library sizes than `second`.
    of_donors[2, 50:] = reference(narrow)
    np.testing.assert_allclose(known.variance[0], np.nanmedian(of_donors, axis=0)[place], rtol=2e-3, atol=1e-6)
    assert [slide["donor"] for slide in known.slides[0]] == ["a", "a", "c", "d"]


def test_genes_that_few_donors_measure_are_left_out(sections):
    first, second, _ = sections
    known = KnownTissues.from_anndata({"tissue": [first, second[:, 50:].copy()]})
    assert np.isfinite(known.variance[0]).sum() == N_GENES - 50


def test_a_tissue_is_recognised_and_a_contamination_is_not_among_its_first_genes(sections, monkeypatch):
    first, second, other = sections
    known = KnownTissues.from_anndata({"another": [other], "this": [second]})
    found = known.recognise([first])
    assert found.tissue == "this" and found.correlation >= LEAST_CORRELATION
    own, theirs = reference(first), reference(second)
    varies = (own > 0.003) | (theirs > 0.003)
    assert found.correlation == pytest.approx(np.corrcoef(own[varies] ** 0.5, theirs[varies] ** 0.5)[0, 1], abs=1e-3)
    # In the order of their variance in the known section, where the contamination has none.
    order = second.var_names[np.argsort(-theirs.astype(np.float16), kind="stable")]
    assert found.genes[:100] == order[:100].tolist()
    assert not set(found.genes[:700]) & set(first.var_names[:CONTAMINATION])
    assert found.slides[0]["donor"] == "b"
    monkeypatch.setattr(_tissues, "N_POOL_GENES", 700)
    assert known.recognise([first]).genes == found.genes[:700]


def test_tissues_that_are_not_known(sections):
    first, second, other = sections
    assert KnownTissues.from_anndata({"another": [other]}).recognise([first]) is None
    known = KnownTissues.from_anndata({"this": [second]})
    assert known.recognise([first[:, :499].copy()]) is None  # too few genes
    constant = first.copy()
    constant.X = np.ones(first.shape, dtype=np.float32)
    assert known.recognise([constant]) is None
    mouse = first.copy()
    mouse.var_names = mouse.var_names.str.lower()
    assert known.recognise([mouse]) is None
    strange = first.copy()
    strange.var_names = [f"unheard of {number}" for number in range(N_GENES)]
    assert known.recognise([strange]) is None


def test_genes_are_called_as_on_the_slide(sections, monkeypatch):
    first, second, _ = (section.copy() for section in sections)
    for adata in (first, second):
        adata.var["id"] = [f"ENSG{number:011d}" for number in range(N_GENES)]
    known = KnownTissues.from_anndata({"this": [second]})
    symbols = known.recognise([first]).genes
    renamed = first.copy()
    renamed.var_names = renamed.var["id"].astype(str) + ".3"
    del renamed.var["id"]
    found = known.recognise([renamed]).genes
    assert first.var_names[renamed.var_names.get_indexer(found)].tolist() == symbols
    # Together, under the names of the first.
    monkeypatch.setattr(_tissues, "FEWEST_SITES", 100)
    assert set(known.recognise([first, renamed]).genes) == set(symbols)


def test_several_slides_are_recognised_if_all_are_large(sections, monkeypatch):
    first, second, _ = sections
    known = KnownTissues.from_anndata({"this": [second]})
    assert known.recognise([first]) is not None
    monkeypatch.setattr(_tissues, "FEWEST_SITES", min(first.n_obs, second.n_obs))
    assert known.recognise([first, second]).tissue == "this"
    monkeypatch.setattr(_tissues, "FEWEST_SITES", min(first.n_obs, second.n_obs) + 1)
    assert known.recognise([first, second]) is None


def test_what_was_saved_is_loaded(sections, tmp_path):
    first, second, other = sections
    known = KnownTissues.from_anndata({"another": [other[:, :800].copy()], "this": [second]})
    known.save(tmp_path / "genes")
    loaded = KnownTissues.load(tmp_path / "genes")
    np.testing.assert_array_equal(loaded.variance, known.variance)
    assert loaded.recognise([first]) == known.recognise([first])


def test_slides_of_a_known_tissue_are_embedded_on_its_genes(sections, monkeypatch, capsys):
    first, second, other = (section.copy() for section in sections)
    known = KnownTissues.from_anndata({"this": [second]})
    monkeypatch.setattr(pretrained, "known_tissues", lambda: known)
    monkeypatch.setattr(_tissues, "N_POOL_GENES", 700)
    tl.embed(first)
    assert capsys.readouterr().out == (
        f"Embedded in closed form on genes that vary in this (variation of genes correlates by "
        f"{known.recognise([first]).correlation:.2f}).\n"
    )
    entry = first.uns["stimage"]["X_stimage"]
    assert (entry["tissue"], entry["n_genes_vocabulary"]) == ("this", 700)
    assert json.loads(entry["tissue_manifest"])["slides"] == known.slides[0]
    tl.embed(first, "closed", key_added="closed")
    assert first.uns["stimage"]["closed"]["tissue"] == ""
    # The contamination leads the axes of the slide alone.
    assert variance_explained(first, "closed") > 0.5 > variance_explained(first, "X_stimage")
    tl.embed(other)
    assert other.uns["stimage"]["X_stimage"]["tissue"] == ""
    assert "tissue_correlation" not in other.uns["stimage"]["X_stimage"]


def variance_explained(adata, key):
    """Largest share of one of the first three axes that the contamination explains."""
    spilled = np.log1p(np.asarray(adata.X[:, :CONTAMINATION].sum(axis=1))).ravel()
    return max(np.corrcoef(spilled, adata.obsm[key][:, axis])[0, 1] ** 2 for axis in range(3))


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("DLPFC_151673", "human prefrontal cortex"),
        ("her2st_B4", "HER2-positive breast cancer"),
        ("heart_dev_3_CN73_D2", "developing human heart"),
        ("STARmap_V1_BY3_1k", None),
        ("osmFISH_mouse_cortex", None),
        ("breast_xenium_crop", None),
    ],
)
def test_shipped_tissues_on_real_slides(shared_data, name, tissue):
    known = pretrained.known_tissues()
    if known is None:
        pytest.skip("there are no tissues in src/")
    adata = anndata.read_h5ad(shared_data / name / f"{name}.h5ad")
    pp.compact_grid(adata)
    found = known.recognise([adata])
    assert (found and found.tissue) == tissue
    if found:
        assert 500 <= len(found.genes) <= 2000 and set(found.genes) <= set(adata.var_names)
        assert name in [slide["name"] for slide in found.slides]


def test_a_tissue_left_out_is_not_taken_for_another(shared_data):
    """No slide is recognised as of a tissue of another organ when its own is not known."""
    known = pretrained.known_tissues()
    if known is None:
        pytest.skip("there are no tissues in src/")
    breast = [tissue for tissue in known.tissues if "breast" in tissue]
    for name, own in {
        "DLPFC_151673": ["human prefrontal cortex"],
        "her2st_A1": breast,
        "heart_dev_2_CN73_E2": ["developing human heart"],
        "HCC1_visium_liver": ["hepatocellular carcinoma"],
        "img-MOB1": ["mouse olfactory bulb"],
    }.items():
        kept = [number for number, tissue in enumerate(known.tissues) if tissue not in own]
        others = KnownTissues(
            known.vocabulary,
            [known.tissues[number] for number in kept],
            known.variance[kept],
            [known.slides[number] for number in kept],
        )
        adata = anndata.read_h5ad(shared_data / name / f"{name}.h5ad")
        pp.compact_grid(adata)
        assert others.recognise([adata]) is None, name
