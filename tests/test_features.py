import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from slides import visium

from stimage import pp
from stimage._counts import other_counts
from stimage._features import absent_genes, counted_genes, is_gene
from stimage.data import Corpus, Slide, Vocabulary

OTHERS = [
    "BLANK_0424", "Blank-17", "NegControlProbe_00042", "NegControlCodeword_0500", "antisense_PROKR2", "NegPrb3",
    "Negative10", "SystemControl4", "FalseCode12", "UnassignedCodeword_0001", "DeprecatedCodeword_0321", "ERCC-00002",
    "Intergenic_Region_Chr1",
]  # fmt: skip
GENES = ["NEGR1", "BLNK", "NELL1", "ERCC1", "DEPDC1", "ANTXR1", "UNC5B", "FALEC", "SYS1", "INTS1", "BLK", "NEU1"]


@pytest.mark.parametrize("name", OTHERS)
def test_controls_and_blanks_are_no_genes(name):
    assert is_gene(AnnData(np.ones((2, 2)), var=pd.DataFrame(index=[name, "ACTB"]))).tolist() == [False, True]


def test_genes_called_almost_so_are():
    assert is_gene(AnnData(np.ones((2, len(GENES))), var=pd.DataFrame(index=GENES))).all()


@pytest.mark.parametrize(
    ("column", "kinds", "expected"),
    [
        ("feature_types", ["Gene Expression", "Antibody Capture", "Gene Expression"], [True, False, True]),
        ("feature_type", ["Gene Expression", "Custom", None], [True, False, True]),
        ("feature_types", ["Negative Control Probe", "Gene Expression", "Unassigned Codeword"], [False, True, False]),
        ("feature_type", ["protein_coding", "lncRNA", "protein_coding"], [True, True, True]),
        ("feature_biotype", ["gene", "spike-in", "gene"], [True, False, True]),
    ],
)
def test_kinds_of_features(column, kinds, expected):
    adata = AnnData(np.ones((2, 3)), var=pd.DataFrame({column: kinds}, index=list("abc")))
    assert is_gene(adata).tolist() == expected


def with_others(adata, names, values, var=None):
    """The slide with more variables, that have the same count everywhere."""
    more = sparse.csr_matrix(np.full((adata.n_obs, len(names)), values, dtype=np.float32))
    index = [*adata.var_names, *names]
    return AnnData(
        sparse.hstack([adata.X, more], format="csr"),
        obs=adata.obs.copy(),
        var=pd.DataFrame(var or {}, index=index),
        obsm=dict(adata.obsm),
    )


def test_other_variables_change_nothing_of_a_slide():
    plain = visium(8, 8, n_genes=60)
    both = with_others(plain, ["BLANK_0001", "NegControlProbe_1"], 5000)
    for adata in (plain, both):
        pp.compact_grid(adata)
    with pytest.warns(
        UserWarning, match=r"2 of 62 variables are left out .* 2 control probes or blanks \(e.g. 'BLANK_0001'"
    ):
        found = Corpus.from_anndata(both, genes=plain.var_names)[0]
    expected = Corpus.from_anndata(plain, genes=plain.var_names)[0]
    np.testing.assert_array_equal(found.library_size, expected.library_size)
    np.testing.assert_array_equal(found.expression.toarray(), expected.expression.toarray())
    alone = Slide.from_anndata(both, plain.var_names.to_numpy())
    np.testing.assert_array_equal(alone.library_size, expected.library_size)
    with pytest.warns(UserWarning, match="left out"):
        pool = pp.select_genes(both, n_genes=40)
    assert pool.genes == pp.select_genes(plain, n_genes=40).genes and pool.overlap["n_genes"].item() == 60
    for adata in (plain, both):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pp.build_niches(adata)
    np.testing.assert_allclose(both.layers["niche"][:, :60].toarray(), plain.layers["niche"].toarray(), rtol=1e-6)


@pytest.mark.parametrize("named_by", ["prefix", "genome"])
def test_of_two_species_the_one_with_most_counts_is_read(named_by):
    rng = np.random.default_rng(0)
    names = [f"GENE{i}" for i in range(6)] + [f"Gene{i}" for i in range(9)]
    genome = ["GRCh38"] * 6 + ["mm10"] * 9
    if named_by == "prefix":
        names = [f"{of}_{name}" for of, name in zip(genome, names, strict=True)]
    var = pd.DataFrame({"genome": genome} if named_by == "genome" else {}, index=names)
    counts = rng.poisson([20.0] * 6 + [1.0] * 9, (10, 15)).astype(np.float32)
    assert counted_genes(AnnData(counts, var=var), counts).tolist() == [True] * 6 + [False] * 9
    assert counted_genes(AnnData(counts[:, ::-1], var=var), counts[:, ::-1]).tolist() == [False] * 6 + [True] * 9
    one = AnnData(counts[:, :6], var=var.iloc[:6])
    assert counted_genes(one, one.X).all()


def test_an_antibody_of_a_gene_s_name_is_not_that_gene():
    var = pd.DataFrame({"feature_types": ["Gene Expression"] * 2 + ["Antibody Capture"]}, index=["ACTB", "MBP", "CD4"])
    match = Vocabulary(["ACTB", "MBP", "CD4"]).match(AnnData(np.ones((3, 3)), var=var))
    assert match.gene_of_variable.tolist() == [0, 1, -1]


def test_genes_of_an_outer_join_are_not_measured_where_they_are_absent():
    first, second = visium(8, 8, n_genes=60, seed=1), visium(8, 8, n_genes=60, seed=2)
    for adata in (first, second):  # no gene is so rare that it has no count
        adata.X = sparse.csr_matrix(adata.X.toarray() + np.eye(64, 60, dtype=np.float32))
    first, second = first[:, :45].copy(), second[:, 15:].copy()
    together = ad.concat({"a": first, "b": second}, label="section", join="outer", index_unique="-")
    assert together.n_vars == 60
    pp.compact_grid(together, slide_key="section")
    corpus = Corpus.from_anndata(together, genes=together.var_names)
    apart = []
    for adata in (first, second):
        pp.compact_grid(adata)
        apart.append(Corpus.from_anndata(adata, genes=together.var_names)[0])
    for found, expected in zip(corpus, apart, strict=True):
        np.testing.assert_array_equal(found.measured, expected.measured)
    joint = pp.select_genes(together, n_genes=20, slide_key="section")
    assert joint.genes == pp.select_genes([first, second], n_genes=20).genes
    assert joint.overlap["n_genes"].tolist() == [45, 45]


def test_a_rare_gene_without_counts_on_a_slide_was_measured():
    rng = np.random.default_rng(0)
    counts = rng.poisson([5.0] * 30 + [0.05], (200, 31))
    counts[100:, 30] = 0
    slides = [np.arange(100), np.arange(100, 200)]
    assert not absent_genes(counts, slides).any()
    counts[100:, 3] = 0  # 500 counts on the other slide
    assert np.argwhere(absent_genes(counts, slides)).tolist() == [[1, 3]] or absent_genes(counts, slides)[1, 3]


def normalised(where):
    adata = visium(6, 6)
    counts = adata.X.copy()
    if where == "raw":
        adata.raw = adata.copy()
    elif where == "wider raw":
        adata.raw = adata.copy()
        raw, adata = adata.raw, adata[:, :8].copy()
        adata.raw = raw.to_adata()
    elif where == "layer":
        adata.layers["counts"] = counts
    elif where == "two layers":
        adata.layers["counts"], adata.layers["spliced"] = counts, counts
    adata.X = adata.X * 0.37
    pp.compact_grid(adata)
    return adata


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("raw", r"adata.raw holds raw counts of 12 genes: adata.layers\['counts'\] = adata.raw"),
        ("wider raw", r"adata.raw holds raw counts of 12 genes: `adata.raw.to_adata\(\)`"),
        ("layer", r"adata.layers\['counts'\] holds raw counts: `layer`='counts'"),
        ("two layers", r"'counts'\] holds raw counts.*'spliced'\] holds raw counts"),
    ],
)
def test_counts_elsewhere_are_named_and_not_taken(where, named):
    adata = normalised(where)
    calls = [
        pp.select_genes,
        pp.build_niches,
        pp.aggregate_sites,
        lambda one: Corpus.from_anndata(one, genes=one.var_names),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="raw counts are needed.*" + named):
            call(adata)


def test_nothing_is_named_where_there_is_nothing():
    adata = normalised("none")
    adata.layers["zero"], adata.layers["scaled"] = adata.X * 0, adata.X - 1.0 * (adata.X > 0)
    assert other_counts(adata, None) == ""


def test_counts_in_half_precision():
    adata = visium(6, 6)
    pp.compact_grid(adata)
    expected = Corpus.from_anndata(adata, genes=adata.var_names)[0]
    adata.X = adata.X.toarray().astype(np.float16)
    found = Corpus.from_anndata(adata, genes=adata.var_names)[0]
    np.testing.assert_array_equal(found.expression.toarray(), expected.expression.toarray())
    pp.select_genes(adata, n_genes=5)
    adata.X[0, 0] = 4096
    with pytest.raises(ValueError, match="half precision.*above 2048.*4096"):
        pp.select_genes(adata)
