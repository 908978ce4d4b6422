import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from stimage import _count_rows, pp
from stimage.data import Corpus
from stimage.data.slides import _row_matrix
from stimage.data.slides._slide import Slide

N_GENES = 12


@pytest.fixture(params=["a site each", "shared sites"])
def adata(request):
    """Observations in no order, some without counts; a control probe; in bins of several observations or alone."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(rng.permutation(40), 8)
    counts = rng.poisson(0.8, (40, N_GENES)).astype(np.float32)
    counts[[3, 17]] = 0
    adata = AnnData(sparse.csr_matrix(counts))
    adata.var_names = [*(f"G{gene}" for gene in range(N_GENES - 1)), "NegControlProbe_1"]
    adata.obsm["spatial"] = np.column_stack([col, row]) * 10.0 + 0.5
    pp.compact_grid(adata, layout="bins", bin_size=20.0 if request.param == "shared sites" else 10.0)
    return adata


def slow_expression(adata, genes):
    """Log1p of counts per 10,000 of each site in raster order, one site after the other; library sizes."""
    counts = adata.X.toarray().astype(float)
    places = adata.obs[["grid_row", "grid_col"]].to_numpy()
    counted = ~adata.var_names.str.startswith("Neg")
    rows, sizes = [], []
    for place in sorted({tuple(place) for place in places.tolist()}):
        own = counts[(places == place).all(axis=1)].sum(axis=0)
        sizes.append(own[counted].sum())
        per = 1e4 / sizes[-1] if sizes[-1] else 0.0
        rows.append([np.log1p(per * own[adata.var_names.get_loc(gene)]) for gene in genes])
    return np.array(rows), np.array(sizes)


@pytest.mark.filterwarnings("ignore:.*left out of library sizes")
@pytest.mark.parametrize("n_values", [1, 25, 10_000])
@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "asarray", "int64"])
def test_against_a_loop_over_sites(adata, monkeypatch, n_values, form):
    monkeypatch.setattr(_count_rows, "VALUES_AT_A_TIME", n_values)
    monkeypatch.setattr(_row_matrix, "_BLOCK", n_values)
    genes = ["G7", "G0", "G3", "absent"]
    expected, sizes = slow_expression(adata, genes[:3])
    dense = adata.X.toarray()
    adata.X = {"asarray": np.asarray, "int64": lambda x: sparse.csr_matrix(x, dtype=np.int64)}.get(
        form, getattr(sparse, form, None)
    )(dense)
    slide = Corpus.from_anndata(adata, genes=genes)[0]
    np.testing.assert_allclose(slide.expression.toarray()[:, :3], expected, rtol=1e-6)
    np.testing.assert_array_equal(slide.library_size, sizes)
    assert slide.measured.tolist() == [True, True, True, False]
    assert not slide.expression[:, 3].nnz
    lazy = Slide.from_anndata(adata, np.array(genes), in_memory=False)
    assert not sparse.issparse(lazy.expression)
    np.testing.assert_array_equal(lazy.expression[[5, 0, 5]].toarray(), slide.expression[[5, 0, 5]].toarray())
    np.testing.assert_array_equal(lazy.gene_mean, slide.gene_mean)
    assert lazy.spot_sketch == slide.spot_sketch
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(
            getattr(lazy.to_target_sum(1e3).expression.in_memory(), part),
            getattr(slide.to_target_sum(1e3).expression, part),
        )
