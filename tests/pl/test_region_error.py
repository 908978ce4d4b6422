import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from helpers import assert_unchanged
from matplotlib.collections import LineCollection, PolyCollection
from scipy import sparse

import stimage as sti
from stimage.pl._sites import slide_sites


def log1p_cp10k(adata: AnnData) -> np.ndarray:
    """Expression of every observation, one after another."""
    counts = adata.X.toarray().astype(float)
    return np.array([np.log1p(row / row.sum() * 1e4) for row in counts])


def reconstruct(adata: AnnData, masked: np.ndarray, *, unknown: int = 2) -> None:
    """Results as of `tl.reconstruct_region` whose prediction is wrong by a known amount: one tenth times the gene."""
    truth = log1p_cp10k(adata)
    prediction = truth.copy()
    prediction[masked] += 0.1 * np.arange(adata.n_vars)
    prediction[np.ix_(masked, np.arange(adata.n_vars) < unknown)] = np.nan
    errors = pd.DataFrame(
        {
            "mse": (0.1 * np.arange(adata.n_vars)) ** 2,
            "mae": 0.1 * np.arange(adata.n_vars),
            "pearson": 1 - np.arange(adata.n_vars) / 100,
        },
        index=adata.var_names,
    ).iloc[unknown:]
    adata.layers["stimage_region"] = sparse.csr_matrix(prediction.astype(np.float32))
    adata.obs["stimage_region_masked"] = masked
    adata.uns["stimage_region"] = {
        "params": {"layer": ""},
        "errors": errors,
        **{name: float(value) for name, value in errors.mean().items()},
    }


def block(adata: AnnData, rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    row, col = adata.obs["grid_row"].to_numpy(), adata.obs["grid_col"].to_numpy()
    return (row >= rows[0]) & (row < rows[1]) & (col >= cols[0]) & (col < cols[1])


@pytest.fixture
def reconstructed(tissue: AnnData) -> AnnData:
    reconstruct(tissue, block(tissue, (6, 11), (4, 8)))
    return tissue


def parts(ax):
    """Cells and border on axes."""
    (cells,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    return cells, [c for c in ax.collections if isinstance(c, LineCollection)]


def values_at(adata, ax):
    """Value drawn at each observation; NaN where it is blank or not shown."""
    cells, _ = parts(ax)
    centres = np.array([path.vertices[:-1].mean(axis=0) for path in cells.get_paths()])
    distance = np.linalg.norm(adata.obsm["spatial"][:, None] - centres, axis=-1)
    values = np.ma.filled(cells.get_array().astype(float), np.nan)[distance.argmin(axis=1)]
    return np.where(distance.min(axis=1) < 10, values, np.nan)


def test_image(reconstructed, assert_looks_like):
    assert_looks_like(sti.pl.region_error(reconstructed, reconstructed.var_names[[5, 30]]), "region_error")


def test_panels_show_truth_prediction_and_error(reconstructed):
    masked = reconstructed.obs["stimage_region_masked"].to_numpy()
    gene = 20
    with assert_unchanged(reconstructed):
        figure = sti.pl.region_error(reconstructed, reconstructed.var_names[gene], context=2)
    measured, predicted, error = figure.axes[:3]
    near = block(reconstructed, (4, 13), (2, 10))
    truth = np.where(near, log1p_cp10k(reconstructed)[:, gene], np.nan)
    np.testing.assert_allclose(values_at(reconstructed, measured), truth, rtol=1e-5)
    np.testing.assert_allclose(values_at(reconstructed, predicted), truth + 0.1 * gene * masked, rtol=1e-5)
    np.testing.assert_allclose(values_at(reconstructed, error), np.where(masked, 0.1 * gene, np.nan), rtol=1e-4)
    limits = [parts(ax)[0].get_clim() for ax in (measured, predicted, error)]
    assert limits[0] == limits[1] == pytest.approx((np.nanmin(truth), np.nanmax(truth + 0.1 * gene * masked)), rel=1e-5)
    assert limits[2] == pytest.approx((-0.1 * gene, 0.1 * gene), rel=1e-4)
    for ax in (measured, predicted, error):
        assert parts(ax)[1]
        assert ax.get_aspect() == 1
        assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_by_default_the_genes_that_vary_most_outside(reconstructed):
    figure = sti.pl.region_error(reconstructed)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    masked = reconstructed.obs["stimage_region_masked"].to_numpy()
    variance = log1p_cp10k(reconstructed)[~masked].var(axis=0)
    variance[:2] = 0  # not known to the model
    order = np.argsort(-variance)[:3]
    assert titles[::3] == [f"{reconstructed.var_names[gene]}, measured" for gene in order]
    assert titles[1::3] == [f"reconstructed ($r$ = {1 - gene / 100:.2f})" for gene in order]
    assert titles[2::3] == [f"error (MSE = {(0.1 * gene) ** 2:.2f})" for gene in order]


def test_only_slides_with_hidden_sites(sections):
    masked = block(sections, (3, 6), (3, 7)) & (sections.obs["slide"] == "slide_2").to_numpy()
    reconstruct(sections, masked)
    figure = sti.pl.region_error(sections, sections.var_names[10])
    assert [ax.get_title() for ax in figure.axes if "measured" in ax.get_title()] == [
        f"{sections.var_names[10]}, measured"
    ]
    part = sections[sections.obs["slide"] == "slide_2"]
    error = values_at(part, figure.axes[2])
    np.testing.assert_array_equal(np.isfinite(error), part.obs["stimage_region_masked"])
    reconstruct(sections, block(sections, (3, 6), (3, 7)))
    figure = sti.pl.region_error(sections, sections.var_names[10])
    assert len([ax for ax in figure.axes if "measured" in ax.get_title()]) == 3


def test_observations_of_one_site_are_averaged():
    adata = sti.datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=40, n_domains=3, layout="irregular")
    sti.pp.compact_grid(adata, layout="bins", bin_size=300.0)
    reconstruct(adata, block(adata, (2, 4), (2, 4)))
    figure = sti.pl.region_error(adata, adata.var_names[7], context=20)
    sites = adata.obs.groupby(["grid_row", "grid_col"]).ngroup().to_numpy()
    assert sites.max() + 1 < adata.n_obs
    expected = pd.Series(log1p_cp10k(adata)[:, 7]).groupby(sites).mean()
    np.testing.assert_allclose(parts(figure.axes[0])[0].get_array(), expected, rtol=1e-5)


def test_layer_and_spots_without_counts(reconstructed):
    expected = sti.pl.region_error(reconstructed).axes
    reconstructed.layers["counts"] = reconstructed.X.copy()
    reconstructed.X = sparse.csr_matrix(log1p_cp10k(reconstructed))
    with pytest.raises(ValueError, match="raw counts"):
        sti.pl.region_error(reconstructed)
    reconstructed.uns["stimage_region"]["params"]["layer"] = "counts"
    found = sti.pl.region_error(reconstructed).axes
    np.testing.assert_array_equal(values_at(reconstructed, found[0]), values_at(reconstructed, expected[0]))
    empty = np.flatnonzero(reconstructed.obs["stimage_region_masked"])[0]
    counts = reconstructed.layers["counts"].tolil()
    counts[empty] = 0
    reconstructed.layers["counts"] = counts.tocsr()
    axes = sti.pl.region_error(reconstructed).axes
    assert np.isnan(values_at(reconstructed, axes[0])[empty])
    assert np.isnan(values_at(reconstructed, axes[2])[empty])


def test_errors(tissue):
    with pytest.raises(KeyError, match=r"reconstruct_region\(adata, model\)"):
        sti.pl.region_error(tissue)
    reconstruct(tissue, block(tissue, (6, 11), (4, 8)))
    with pytest.raises(KeyError, match="'no'.*var_names"):
        sti.pl.region_error(tissue, ["no"])
    with pytest.raises(ValueError, match="not reconstructed"):
        sti.pl.region_error(tissue, tissue.var_names[0])
    with pytest.raises(ValueError, match="genes"):
        sti.pl.region_error(tissue, [])
    with pytest.raises(ValueError, match="context"):
        sti.pl.region_error(tissue, context=-1)
    visible = tissue[~tissue.obs["stimage_region_masked"]].copy()
    with pytest.raises(ValueError, match="no region was hidden"):
        sti.pl.region_error(visible)
    del tissue.uns["grid"]
    with pytest.raises(KeyError, match="compact_grid"):
        sti.pl.region_error(tissue)


def test_after_reconstruct_region(tissue, model):
    sti.pp.compact_grid(tissue, key_added="lattice")
    sti.models.STImage.setup_anndata(tissue, grid_key="lattice")
    model.train(max_epochs=1, windows_per_epoch=2, batch_size=2, enable_progress_bar=False, accelerator="cpu")
    sti.tl.reconstruct_region(tissue, model, size=4)
    del tissue.uns["grid"]
    gene = tissue.uns["stimage_region"]["errors"]["pearson"].idxmax()
    figure = sti.pl.region_error(tissue, gene)
    hidden = tissue.obs["stimage_region_masked"].to_numpy()
    error = values_at(tissue, figure.axes[2])
    assert figure.axes[0].get_title() == f"{gene}, measured"
    assert np.mean(error[hidden] ** 2) == pytest.approx(
        tissue.uns["stimage_region"]["errors"].loc[gene, "mse"], rel=1e-4
    )
    assert np.isnan(error[~hidden]).all()


@pytest.mark.parametrize("name", ["her2st_A1", "pf-visium_lymph_subset"])
def test_real_slides(shared_data, name):
    adata = read_h5ad(shared_data / name / f"{name}.h5ad")[:, :60].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    sti.pp.compact_grid(adata)
    rows, cols = adata.uns["grid"]["slides"].loc["slide", ["n_rows", "n_cols"]] // 2
    reconstruct(adata, block(adata, (rows - 4, rows + 4), (cols - 4, cols + 4)))
    figure = sti.pl.region_error(adata, adata.var_names[5])
    (slide,) = slide_sites(adata, "grid")
    hidden = adata.obs["stimage_region_masked"].to_numpy()[slide.observations]
    shown = parts(figure.axes[2])[0]
    assert np.ma.count(shown.get_array()) == hidden.sum() < len(shown.get_paths()) <= adata.n_obs
