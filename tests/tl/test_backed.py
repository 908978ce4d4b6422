"""Whole slides stay in their file: what works on a backed AnnData gives what it gives in memory."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stimage as sti
from stimage import _count_rows


def two_sections():
    adata = sti.datasets.simulate_tissue(n_rows=14, n_cols=12, n_genes=150, n_slides=2)
    rng = np.random.default_rng(0)
    return adata[rng.permutation(adata.n_obs)].copy()


@pytest.fixture(params=["csr", "dense"])
def pair(request, tmp_path, monkeypatch):
    """The same sections in memory and in a file that is read a few rows at a time."""
    monkeypatch.setattr(_count_rows, "VALUES_AT_A_TIME", 2000)
    adata = two_sections()
    if request.param == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "slide.h5ad")
    backed = ad.read_h5ad(tmp_path / "slide.h5ad", backed="r")
    for one in (adata, backed):
        sti.pp.compact_grid(one, slide_key="slide")
    yield adata, backed
    backed.file.close()


def test_from_a_file_as_from_memory(pair, tmp_path):
    adata, backed = pair
    pools = [sti.pp.select_genes(one, n_genes=60, slide_key="slide") for one in pair]
    pd.testing.assert_frame_equal(pools[0].table, pools[1].table)
    corpora = [sti.data.Corpus.from_anndata(one, genes=pools[0].genes) for one in pair]
    for one, other in zip(*corpora, strict=True):
        assert (one.expression != other.expression).nnz == 0
        np.testing.assert_array_equal(one.library_size, other.library_size)
        assert one.spot_sketch == other.spot_sketch
    for one in pair:
        sti.tl.embed(one, "closed")
        sti.tl.domains(one, 3, smooth_neighbors=5)
    np.testing.assert_array_equal(adata.obsm["X_stimage"], backed.obsm["X_stimage"])
    assert adata.obs["stimage_domain"].tolist() == backed.obs["stimage_domain"].tolist()
    # The file is as it was.
    assert "X_stimage" not in ad.read_h5ad(tmp_path / "slide.h5ad").obsm


def test_training_on_a_file_or_on_a_corpus_of_it(pair, tmp_path):
    adata, backed = pair
    genes = adata.var_names[:60]
    sti.data.Corpus.from_anndata(backed, genes=genes).write(tmp_path / "corpus", target_sum=1e4)
    options = {"window": 8, "max_epochs": 1, "batch_size": 4, "n_genes": 32, "windows_per_epoch": 4}
    options |= {"accelerator": "cpu", "enable_progress_bar": False}
    models = [
        sti.tl.pretrain(adata, genes=genes, **options),
        sti.tl.pretrain(backed, genes=genes, **options),
        sti.tl.pretrain(sti.data.Corpus.open(tmp_path / "corpus"), **options),
    ]
    vectors = []
    for model in models:
        sti.tl.embed(backed, model)
        vectors.append(backed.obsm["X_stimage"])
    sti.tl.embed(adata, models[0])
    for other in (adata.obsm["X_stimage"], *vectors[1:]):
        np.testing.assert_array_equal(vectors[0], other)


def test_what_a_file_cannot_do_is_said_before_any_work(pair, tmp_path):
    _, backed = pair
    for call in (
        lambda: sti.pp.compact_grid(backed, copy=True),
        lambda: sti.tl.embed(backed, copy=True),
        lambda: sti.tl.domains(backed, 3, use_rep="cell_types", copy=True),
    ):
        with pytest.raises(ValueError, match=r"`copy`=True makes a copy in memory.*to_memory"):
            call()
    with pytest.raises(TypeError, match=r"in memory, found .*Corpus.from_anndata"):
        sti.benchmark.compare(backed, use_rep="cell_types", label_key="domain")
    by_gene = two_sections()
    by_gene.X = sparse.csc_matrix(by_gene.X)
    by_gene.write_h5ad(tmp_path / "columns.h5ad")
    columns = ad.read_h5ad(tmp_path / "columns.h5ad", backed="r")
    sti.pp.compact_grid(columns, slide_key="slide")
    with pytest.raises(TypeError, match=r"gene by gene \(CSC\)"):
        sti.tl.embed(columns, "closed")
    assert "stimage" not in columns.uns
    columns.file.close()


def test_a_layer_of_a_backed_slide(tmp_path):
    adata = two_sections()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.copy()
    adata.X.data = np.log1p(adata.X.data)
    adata.write_h5ad(tmp_path / "slide.h5ad")
    backed = ad.read_h5ad(tmp_path / "slide.h5ad", backed="r")
    for one in (adata, backed):
        sti.pp.compact_grid(one, slide_key="slide")
        sti.tl.embed(one, "closed", layer="counts")
    np.testing.assert_array_equal(adata.obsm["X_stimage"], backed.obsm["X_stimage"])
    with pytest.raises(ValueError, match="looks log-transformed"):
        sti.tl.embed(backed, "closed")
    backed.file.close()
