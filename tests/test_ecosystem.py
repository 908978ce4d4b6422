"""Results travel with the rest of scverse: files, subsets, other matrices, scanpy, squidpy and scvi-tools."""

import contextlib
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged, in_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stimage as sti

N_GENES = 60


@pytest.fixture(scope="module")
def model():
    return sti.pretrained.load()


def visium(model, n_rows=12, n_cols=12, *, genes=None, empty=0.0, seed=0):
    """Counts of two kinds of tissue on a Visium lattice; genes are those of the model."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    genes = model.genes[:N_GENES] if genes is None else genes
    drawn = min(len(genes), N_GENES)
    rate = np.where((row < n_rows / 2)[:, None] == (np.arange(drawn) % 2), 3.0, 0.5)
    counts = rng.poisson(rate)
    counts[:, 0] += 1
    counts[rng.random(len(row)) < empty] = 0
    counts = sparse.csr_matrix(counts.astype(np.float32))
    counts.resize((len(row), len(genes)))
    names = [f"{seed}-{i}" for i in range(len(row))]
    obs = pd.DataFrame({"array_row": row, "array_col": 2 * col + row % 2}, index=names)
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=np.asarray(genes, dtype=object)))
    adata.obsm["spatial"] = np.column_stack([obs["array_col"] * 50.0, obs["array_row"] * 86.6])
    adata.uns["spatial"] = {"section": {"images": {}, "scalefactors": {"spot_diameter_fullres": 55.0}}}
    return adata


def run(adata, model, slide_key=None):
    sti.pp.compact_grid(adata, slide_key=slide_key)
    sti.pp.build_niches(adata, slide_key=slide_key)
    sti.tl.embed(adata, model)
    sti.tl.domains(adata, 3)
    sti.tl.reconstruct_region(adata, model, size=3)
    return adata


@pytest.fixture(scope="module")
def finished(model):
    return run(visium(model), model)


def same(one, other):
    """Everything that stimage wrote is the same."""
    for key in ("grid_row", "grid_col", "stimage_region_masked"):
        np.testing.assert_array_equal(one.obs[key], other.obs[key])
    assert one.obs["stimage_domain"].astype(str).tolist() == other.obs["stimage_domain"].astype(str).tolist()
    for key in ("X_grid", "X_stimage", "niche_bbox"):
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])
    for key in ("niche", "stimage_region"):
        np.testing.assert_array_equal(one.layers[key].toarray(), other.layers[key].toarray())
    assert (one.obsp["niche_connectivities"] != other.obsp["niche_connectivities"]).nnz == 0
    frame = {"check_dtype": False, "check_index_type": False, "check_column_type": False, "check_names": False}
    for part in ("slides", "summary"):
        pd.testing.assert_frame_equal(one.uns["grid"][part], other.uns["grid"][part], **frame)
    pd.testing.assert_frame_equal(one.uns["stimage_region"]["errors"], other.uns["stimage_region"]["errors"], **frame)
    assert one.uns["grid"]["params"] == other.uns["grid"]["params"]
    assert one.uns["stimage"]["X_stimage"] == other.uns["stimage"]["X_stimage"]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_files(tmp_path, finished, model, form):
    path = tmp_path / f"slide.{form}"
    getattr(finished, f"write_{form}")(path)
    read = getattr(ad, f"read_{form}")(path)
    same(finished, read)
    # Work goes on with what was read.
    sti.pp.compact_grid(read)
    sti.tl.domains(read, 2)
    sti.pp.aggregate_sites(read)


def test_backed(tmp_path, model):
    adata = visium(model)
    adata.write_h5ad(tmp_path / "slide.h5ad")
    backed = ad.read_h5ad(tmp_path / "slide.h5ad", backed="r")
    sti.pp.compact_grid(backed)  # looks at no counts
    for call in (
        lambda: sti.tl.reconstruct_region(backed, model, size=3),
        lambda: sti.pp.build_niches(backed),
        lambda: sti.pp.aggregate_sites(backed),
    ):
        with pytest.raises(TypeError, match="in memory, found .*to_memory"):
            call()
    loaded = backed.to_memory()
    for one in (loaded, backed):
        sti.tl.embed(one, model)
        sti.tl.domains(one, 2)
    np.testing.assert_array_equal(loaded.obsm["X_stimage"], backed.obsm["X_stimage"])
    backed.file.close()


def test_subsets_keep_results(finished):
    part = finished[finished.obs["stimage_domain"] != "2", :40]
    assert part.is_view
    kept = finished.obs_names.get_indexer(part.obs_names)
    np.testing.assert_array_equal(part.obsm["X_stimage"], finished.obsm["X_stimage"][kept])
    copy = part.copy()
    with assert_unchanged(finished):
        sti.tl.domains(copy, 2)
        sti.pp.compact_grid(copy)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_concatenated_results(finished, model):
    """Each slide's grid is built again: rows of ``uns`` do not travel with ``concat``; everything else does."""
    other = run(visium(model, seed=1), model)
    together = ad.concat({"a": finished, "b": other}, label="slide", pairwise=True)
    np.testing.assert_array_equal(
        together.obsm["X_stimage"], np.vstack([finished.obsm["X_stimage"], other.obsm["X_stimage"]])
    )
    assert together.obsp["niche_connectivities"].nnz == sum(
        a.obsp["niche_connectivities"].nnz for a in (finished, other)
    )
    with assert_unchanged(together), pytest.raises(KeyError, match="No compact grid.*compact_grid"):
        sti.tl.embed(together, model)
    sti.tl.domains(together, 3)
    sti.pp.compact_grid(together, slide_key="slide")
    sti.pp.build_niches(together, slide_key="slide")
    np.testing.assert_array_equal(
        together.layers["niche"][: finished.n_obs].toarray(), finished.layers["niche"].toarray()
    )
    sti.tl.embed(together, model)
    # Slides do not see each other.
    np.testing.assert_allclose(together.obsm["X_stimage"][: finished.n_obs], finished.obsm["X_stimage"], atol=1e-4)


def test_order_of_observations_and_genes_does_not_matter(finished, model):
    rng = np.random.default_rng(3)
    shuffled = visium(model)
    shuffled = shuffled[rng.permutation(shuffled.n_obs), rng.permutation(shuffled.n_vars)].copy()
    sti.pp.compact_grid(shuffled)
    sti.tl.embed(shuffled, model)
    expected = finished[shuffled.obs_names].obsm["X_stimage"]
    np.testing.assert_allclose(shuffled.obsm["X_stimage"], expected, atol=1e-3)


MATRICES = {
    "int64": lambda x: x.astype(np.int64),
    "dense": lambda x: np.asfortranarray(x.toarray(), dtype=np.float64),
    "CSC": sparse.csc_matrix,
    "CSR array": sparse.csr_array,
    "explicit zeros": lambda x: sparse.csr_matrix((x.toarray().ravel(), np.indices(x.shape).reshape(2, -1)), x.shape),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices(finished, model, kind):
    adata = visium(model)
    adata.X = MATRICES[kind](adata.X)
    before = adata.X.copy()
    run(adata, model)
    same(finished, adata)
    assert type(adata.X) is type(before)
    assert adata.X.dtype == before.dtype
    assert abs(adata.X - before).max() == 0
    assert sti.pp.aggregate_sites(adata).X.sum() == before.sum()


def test_views_become_copies(finished, model):
    whole = visium(model)
    view = whole[:]
    with assert_unchanged(whole), pytest.warns(UserWarning, match="view"):
        sti.pp.compact_grid(view)
    sti.tl.embed(view, model)
    np.testing.assert_array_equal(view.obsm["X_stimage"], finished.obsm["X_stimage"])


def test_dask_is_refused(model):
    array = pytest.importorskip("dask.array")
    adata = visium(model)
    adata.X = array.from_array(adata.X.toarray(), chunks=(50, -1))
    sti.pp.compact_grid(adata)
    for call in (
        lambda: sti.tl.embed(adata, model),
        lambda: sti.pp.build_niches(adata),
        lambda: sti.pp.aggregate_sites(adata),
    ):
        with pytest.raises(TypeError, match="found Array: convert it .*to_memory"):
            call()
    sti.tl.embed(adata.to_memory(), model)


# Other packages


def test_scanpy_and_squidpy_take_the_results(finished):
    import scanpy as sc
    import squidpy as sq

    adata = finished.copy()
    sc.pp.neighbors(adata, use_rep="X_stimage", n_neighbors=10, method="gauss")  # the default compiles for seconds
    assert adata.obsp["connectivities"].shape == (adata.n_obs, adata.n_obs)
    sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=6)
    sq.gr.nhood_enrichment(adata, cluster_key="stimage_domain", n_perms=10, show_progress_bar=False, n_jobs=1)
    enrichment = adata.uns["stimage_domain_nhood_enrichment"]["zscore"]
    assert enrichment.shape == (3, 3)
    assert (np.diag(enrichment) > 0).all()  # domains are compact


def test_scib_metrics_takes_the_results(finished):
    metrics = pytest.importorskip("scib_metrics")
    score = metrics.silhouette_label(
        finished.obsm["X_stimage"], finished.obs["stimage_domain"].to_numpy(), rescale=False
    )
    assert -1 <= score <= 1


@pytest.fixture
def scvi_settings():
    import scvi

    saved = {name: getattr(scvi.settings, name) for name in ("verbosity", "progress_bar_style", "seed")}
    yield scvi.settings
    for name, value in saved.items():
        if value is not None or name == "seed":
            setattr(scvi.settings, name, value)


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_follows_scvi(finished, model, scvi_settings, capsys, quiet):
    import logging

    scvi_settings.progress_bar_style = "tqdm"
    scvi_settings.verbosity = logging.ERROR if quiet else logging.INFO
    adata = finished.copy()
    with contextlib.suppress(KeyError):
        del adata.obs["stimage_domain"]
    sti.tl.domains(adata)  # tries many numbers of domains
    printed = capsys.readouterr()
    assert bool(printed.out + printed.err) is not quiet


@pytest.mark.parametrize("style", ["tqdm", "rich"])
def test_progress_bars_have_the_style_of_scvi(scvi_settings, capsys, style):
    from stimage._settings import progress

    scvi_settings.progress_bar_style = style
    assert list(progress(range(3), "Steps")) == [0, 1, 2]
    printed = capsys.readouterr().out
    assert "Steps" in printed
    assert ("it/s" in printed) is (style == "tqdm")


def test_seeds_may_be_those_of_scvi(finished, model, scvi_settings):
    """Only where asked for with ``seed=None``: a default of another package changes no result by itself."""

    def results(**seed):
        adata = finished.copy()
        sti.tl.embed(adata, model, mode="context", key_added="X", **seed)
        sti.tl.domains(adata, 2, method="kmeans", use_rep="X", **seed)
        sti.tl.reconstruct_region(adata, model, size=3, **seed)
        holes = sti.tl.fill_holes(adata, model, **seed)
        written = [
            adata.uns["stimage"]["X"],
            *(adata.uns[key]["params"] for key in ("stimage_domain", "stimage_region")),
        ]
        seeds = {int(params["seed"]) for params in (*written, holes.uns["stimage_holes"]["params"])}
        return seeds, adata.obsm["X"], adata.obs["stimage_region_masked"].to_numpy()

    def equal(one, other):
        return one[0] == other[0] and all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))

    zero, five = results(), results(seed=5)
    assert (zero[0], five[0]) == ({0}, {5})
    assert not any(np.array_equal(a, b) for a, b in zip(zero[1:], five[1:], strict=True))
    assert equal(results(seed=None), zero)
    scvi_settings.seed = 5
    assert equal(results(seed=None), five)
    assert equal(results(), zero)


def test_training_may_have_the_seed_of_scvi(finished, scvi_settings):
    options = {"window": 6, "n_pool_genes": 30, "n_genes": 20, "max_epochs": 1, "windows_per_epoch": 4, "batch_size": 4}
    options |= {"accelerator": "cpu", "enable_progress_bar": False, "spectral_start": False}
    scvi_settings.seed = 5
    trained = [
        sti.tl.pretrain(finished.copy(), **in_groups(sti.tl.pretrain, **options), **seed)
        for seed in ({"seed": None}, {"seed": 5})
    ]
    assert [model.seed for model in trained] == [5, 5]
    first, second = (model.module.state_dict() for model in trained)
    assert all((first[name] == second[name]).all() for name in first)


def test_version_types_and_quick_import():
    assert (Path(sti.__file__).parent / "py.typed").is_file()
    assert sti.__version__
    # Time of the import alone, without that of Python; the best of several on a machine that may be busy.
    code = "import time; start = time.process_time(); import stimage; print(time.process_time() - start)"
    runs = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3))
    assert min(float(run.stdout) for run in runs) < 0.1


# Slides at the edge


@pytest.mark.parametrize("empty", [0.01, 0.5, 0.9])
def test_empty_spots(model, empty):
    adata = run(visium(model, empty=empty, seed=2), model)
    assert np.isfinite(adata.obsm["X_stimage"]).all()
    hidden = adata.obs["stimage_region_masked"].to_numpy()
    assert np.isfinite(adata.layers["stimage_region"][hidden].toarray()).all()


def test_no_counts_at_all(model):
    adata = visium(model, empty=1.0)
    sti.pp.compact_grid(adata)
    for call in (lambda: sti.tl.embed(adata, model), lambda: sti.tl.reconstruct_region(adata, model, size=3)):
        with assert_unchanged(adata), pytest.raises(ValueError, match="no counts, all are zero"):
            call()


def test_one_gene(model):
    adata = visium(model, genes=model.genes[:1])
    sti.pp.compact_grid(adata)
    sti.pp.build_niches(adata)
    for call in (lambda: sti.tl.embed(adata, model), lambda: sti.pp.select_genes(adata)):
        with pytest.raises(ValueError, match="1 genes, at least 2 are needed"):
            call()


def test_many_genes(model, finished):
    """Genes that the model does not know and nobody counted change nothing."""
    genes = [*model.genes[:N_GENES], *(f"other{i}" for i in range(60_000 - N_GENES))]
    adata = visium(model, genes=genes)
    sti.pp.compact_grid(adata)
    sti.tl.embed(adata, model)
    np.testing.assert_allclose(adata.obsm["X_stimage"], finished.obsm["X_stimage"], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_line_of_spots(model, shape):
    adata = run(visium(model, *shape), model)
    assert np.isfinite(adata.obsm["X_stimage"]).all()


def test_many_tiny_slides(model):
    adata = ad.concat([visium(model, 2, 3, seed=seed) for seed in range(200)], label="slide")
    sti.pp.compact_grid(adata, slide_key="slide")
    sti.pp.build_niches(adata, slide_key="slide")
    assert len(adata.uns["grid"]["slides"]) == len(adata.uns["grid"]["summary"]) == 200
    some = adata[adata.obs["slide"].isin(adata.obs["slide"].cat.categories[:4])].copy()
    sti.tl.embed(some, model)
    assert np.isfinite(some.obsm["X_stimage"]).all()


# Round trips


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 9), st.integers(3, 9), st.sampled_from(["hex", "square"]), st.integers(0, 100))
def test_grid_round_trip(n_rows, n_cols, layout, seed):
    """Sites written out as positions give the same sites again, whatever spots are left out."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    kept = np.sort(rng.permutation(len(row))[: max(8, int(0.9 * len(row)))])
    row, col = row[kept], col[kept]
    array_col = 2 * col + row % 2 if layout == "hex" else col
    adata = ad.AnnData(np.ones((len(row), 2)), obs=pd.DataFrame({"array_row": row, "array_col": array_col}))
    adata.obs_names = [f"s{i}" for i in range(len(row))]
    adata.obsm["spatial"] = np.column_stack([array_col, row * (np.sqrt(3) if layout == "hex" else 1.0)]) * 10.0
    sti.pp.compact_grid(adata, layout=layout)
    np.testing.assert_array_equal(adata.obs["grid_row"], row - row.min())
    step = adata.obs["grid_col"] - (array_col // 2 if layout == "hex" else array_col)
    assert step.nunique() == 1
    again = adata.copy()
    again.obs["array_row"], again.obs["array_col"] = adata.obs["grid_row"], adata.obs["grid_col"]
    if layout == "hex":
        parity = int(adata.uns["grid"]["slides"]["parity"].iloc[0])
        again.obs["array_col"] = 2 * adata.obs["grid_col"] + (adata.obs["grid_row"] + parity) % 2
    sti.pp.compact_grid(again, layout=layout)
    pd.testing.assert_frame_equal(again.obs[["grid_row", "grid_col"]], adata.obs[["grid_row", "grid_col"]])


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(1, 4), st.integers(0, 1000))
def test_niches_follow_their_spots(n, n_neighbors, seed):
    """Niches of reordered spots are the reordered niches, and each mean is that of its members."""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(2.0, (n, 3)).astype(np.float32)))
    adata.obs_names = [f"s{i}" for i in range(n)]
    adata.obsm["spatial"] = rng.uniform(0, 100, (n, 2))
    order = rng.permutation(n)
    other = adata[order].copy()
    for one in (adata, other):
        sti.pp.compact_grid(one, layout="bins", bin_size=40)
        sti.pp.build_niches(one, n_neighbors=n_neighbors)
    members = adata.obsp["niche_connectivities"].toarray()
    np.testing.assert_array_equal(other.obsp["niche_connectivities"].toarray(), members[np.ix_(order, order)])
    assert (members.sum(axis=1) == n_neighbors + 1).all()
    counts = adata.X.toarray()
    total = counts.sum(axis=1, keepdims=True)
    expression = np.log1p(1e4 * counts / np.maximum(total, 1))
    for spot in range(n):
        inside = np.flatnonzero(members[spot] * (total[:, 0] > 0))
        expected = expression[inside].mean(axis=0) if len(inside) else np.zeros(3)
        np.testing.assert_allclose(adata.layers["niche"][spot].toarray()[0], expected, rtol=1e-4, atol=1e-5)
