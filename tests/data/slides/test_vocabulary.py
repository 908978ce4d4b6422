import re
import string

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from slides import visium

from stimage import pp
from stimage.data import Corpus, Slide, Vocabulary

IDS = {"GAPDH": "ENSG00000111640", "MBP": "ENSG00000197971", "C1orf1": "ENSG00000000011"}


def named(names: list[str], **columns: list) -> AnnData:
    return AnnData(np.ones((2, len(names)), dtype=np.float32), var=pd.DataFrame(columns, index=names))


def slow_match(names: list[str], genes: list[str], ids: dict[str, str]) -> list[int]:
    """One name at a time, from dictionaries."""
    ensembl, upper = {}, {}
    for number, gene in enumerate(genes):
        own = re.fullmatch(r"(ENS[A-Z]*G[0-9]+)(\.[0-9]+)?", gene)
        identifier = own.group(1) if own else ids.get(gene)
        if identifier:
            ensembl.setdefault(identifier, []).append(number)
        upper.setdefault(gene.upper(), []).append(number)
    found = []
    for name in names:
        identifier = re.fullmatch(r"(ENS[A-Z]*G[0-9]+)(\.[0-9]+)?", name)
        candidates = ensembl.get(identifier.group(1), []) if identifier else []
        if name in genes:
            found.append(genes.index(name))
        elif len(candidates) == 1:
            found.append(candidates[0])
        else:
            found.append(-1)
    sure = set(found)
    for place, name in enumerate(names):
        candidates = upper.get(name.upper(), [])
        if found[place] < 0 and len(candidates) == 1 and candidates[0] not in sure:
            found[place] = candidates[0]
    return found


letters = st.text("aAbB", min_size=1, max_size=2)
identifiers = st.builds("ENSG{:06d}".format, st.integers(1, 6))
versioned = st.builds("{}.{}".format, identifiers, st.integers(1, 3))


@given(
    genes=st.lists(letters | identifiers | versioned, min_size=2, max_size=12, unique=True),
    ids=st.lists(identifiers | versioned, max_size=12),
    names=st.lists(letters | identifiers | versioned, min_size=1, max_size=12, unique=True),
)
def test_against_dictionaries(genes, ids, names):
    known = {gene: identifier for gene, identifier in zip(genes, ids, strict=False) if not gene.startswith("ENS")}
    expected = slow_match(names, genes, {gene: identifier.split(".")[0] for gene, identifier in known.items()})
    vocabulary = Vocabulary(genes, known)
    adata = named(names)
    needed = 1 if len(genes) <= 10 else 2
    if len(set(expected) - {-1}) < needed:
        with pytest.raises(ValueError, match=f"at least {needed} are needed"):
            vocabulary.match(adata)
        return
    match = vocabulary.match(adata)
    assert match.gene_of_variable.tolist() == expected
    assert match.n_genes == len(set(expected) - {-1})
    first = [expected.index(gene) if gene in expected else -1 for gene in range(len(genes))]
    assert match.first_variable.tolist() == first


@given(st.data())
def test_names_written_otherwise_are_the_same_genes(data):
    genes = [f"{letter}{number}" for number, letter in enumerate(string.ascii_uppercase)]
    ids = {gene: f"ENSG{number:011d}" for number, gene in enumerate(genes)}
    written = []
    for gene in genes:
        version = data.draw(st.integers(1, 20))
        written.append(data.draw(st.sampled_from([gene, gene.lower(), ids[gene], f"{ids[gene]}.{version}"])))
    match = Vocabulary(genes, ids).match(named(written))
    assert match.gene_of_variable.tolist() == list(range(26))
    assert match.n_ignoring_case == sum(name.islower() for name in written)
    assert match.n_by_ensembl_id == sum(name.startswith("ENSG") for name in written)


@pytest.mark.parametrize("kind", [list, pd.Categorical])
def test_the_names_that_find_most_genes_are_used(kind):
    vocabulary = Vocabulary(list(IDS), IDS)
    columns = {"n_cells": [3, 1, 2], "feature_types": ["Gene Expression"] * 3}
    symbols = named(["g1", "g2", "MBP"], **columns, symbol=kind(["GAPDH", None, "MBP"]))
    match = vocabulary.match(symbols)
    assert (match.source, match.gene_of_variable.tolist()) == ("symbol", [0, -1, 1])
    ids = named(["g1", "g2", "MBP"], gene_ids=kind(["ENSG00000000011.2", "ENSG00000111640", None]), **columns)
    match = vocabulary.match(ids)
    assert (match.source, match.gene_of_variable.tolist()) == ("gene_ids", [2, 0, -1])
    same = named(["MBP", "GAPDH"], symbol=["MBP", "GAPDH"])
    assert vocabulary.match(same).source == "var_names"


def test_ensembl_ids_are_read_beside_the_names():
    genes = ["MBP", "GAPDH", "ACTB"]
    first = named(["GAPDH", "MBP"], kind=["gene", "gene"], gene_ids=[None, "ENSG00000197971.4"])
    second = named(["GAPDH", "MBP", "OTHER"], ensembl=["ENSG00000111640", "ENSG00000000001", "ENSG00000000002"])
    vocabulary = Vocabulary.from_anndata([first, second], genes)
    assert vocabulary.ensembl_ids == {"MBP": "ENSG00000197971", "GAPDH": "ENSG00000111640"}
    assert Corpus.from_anndata(with_grid(second), genes=genes).vocabulary.ensembl_ids["MBP"] == "ENSG00000000001"


def test_bad_ensembl_ids():
    with pytest.raises(ValueError, match="`ensembl_ids` must hold Ensembl gene ids.*found 'Mbp'"):
        Vocabulary(["GAPDH", "MBP"], {"MBP": "Mbp"})


def test_another_species_is_warned_of(caplog):
    genes = [f"GENE{number}" for number in range(20)]
    adata = with_grid(named(["GENE0", *[gene.capitalize() for gene in genes[1:12]], "Gene0"]))
    with caplog.at_level("INFO", logger="stimage"), pytest.warns(UserWarning, match="^11 of 12 genes match.*orthologs"):
        (slide,) = Corpus.from_anndata(adata, genes=genes)
    assert slide.measured.sum() == 12
    assert "12 of the 20 genes of the vocabulary (60 %) found in var_names" in caplog.text


def test_too_few_genes_are_refused():
    genes = [f"GENE{number}" for number in range(2000)]
    others = [f"other{number}" for number in range(100)]
    assert Vocabulary(genes).match(named(genes[:50] + others)).n_genes == 50
    with pytest.raises(ValueError, match="^49 genes of adata.var_names.*2000 of the vocabulary.*at least 50.*pretrain"):
        Vocabulary(genes).match(named(genes[:49] + others))
    assert Vocabulary(genes[:40]).match(named(genes[:4] + others)).n_genes == 4
    with pytest.raises(ValueError, match="at least 4"):
        Vocabulary(genes[:40]).match(named(genes[:3] + others))


def with_grid(adata: AnnData) -> AnnData:
    adata.obs["array_row"], adata.obs["array_col"] = 0, 2 * np.arange(adata.n_obs)
    adata.obsm["spatial"] = np.column_stack([np.arange(adata.n_obs) * 10.0, np.zeros(adata.n_obs)])
    pp.compact_grid(adata, layout="square")
    return adata


def test_counts_of_variables_that_are_one_gene_are_added():
    adata = visium(n_genes=12)
    pp.compact_grid(adata)
    split = adata[:, [*range(12), 3]].copy()
    split.var_names = [*[f"gene{number}" for number in range(12)], "ENSG00000111640.2"]
    counts = adata.X.toarray()
    part = np.minimum(counts[:, 3], 1)
    split.X = sparse.csr_matrix(np.column_stack([counts[:, :3], counts[:, 3] - part, counts[:, 4:], part]))
    genes = Vocabulary(["gene3", "gene7", "absent"], {"gene3": "ENSG00000111640"})
    (expected,), (slide,) = (Corpus.from_anndata(each, genes=genes) for each in (adata, split))
    np.testing.assert_allclose(slide.expression.toarray(), expected.expression.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(slide.measured, [True, True, False])
    np.testing.assert_array_equal(
        Slide.from_anndata(adata, genes.genes).expression.toarray(), expected.expression.toarray()
    )
