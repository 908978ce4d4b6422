"""The public task: slides are the ones that were meant, methods see no hidden count, and scores are what they are called."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from scipy import sparse

from stimage import datasets, pp
from stimage.benchmark import (
    REGION_BASELINES,
    counting_noise_floor,
    gene_mean,
    inverse_distance,
    kriging,
    region_method,
    region_task,
    submit,
)
from stimage.benchmark.regions._task import (
    RegionTask,
    counts_fingerprint,
    describe,
    draw_regions,
    hidden_spots,
    on_grid,
    task_from_json,
    task_to_json,
)


@pytest.fixture(scope="module")
def slide():
    adata = datasets.simulate_tissue(n_rows=16, n_cols=16, n_genes=120, seed=3)
    adata.X = sparse.csr_matrix(adata.X)
    return adata


@pytest.fixture(scope="module")
def task(slide):
    regions = draw_regions(slide, (3, 5), 2, seed=0)
    return RegionTask(7, 40, 0.8, 0, (describe(slide, "simulated", regions),))


def test_what_a_method_sees_and_how_it_is_scored(slide, task):
    seen = []

    def spy(visible, positions):
        seen.append((visible.copy(), positions.copy()))
        log = visible.layers["log"][:, visible.var["predicted"].to_numpy()].toarray()
        mean = np.tile(log.mean(axis=0), (len(positions), 1))
        return mean, mean - 0.5, mean + 1

    before = slide.copy()
    records = submit(spy, {"simulated": slide}, name="spy", task=task)
    assert (slide.X != before.X).nnz == 0 and list(slide.obs) == list(before.obs)
    sites, places = on_grid(slide)
    counts = slide.X.toarray()
    totals = counts.sum(axis=1)
    log = np.log1p(1e4 * counts / totals[:, None])
    assert len(records) == len(seen) == len(task.slides[0].regions) == 4
    for region, (visible, positions), (_, row) in zip(task.slides[0].regions, seen, records.iterrows(), strict=True):
        inside = (sites >= [region.row, region.col]) & (sites < [region.row + region.size, region.col + region.size])
        hidden = inside.all(axis=1)
        assert hidden.sum() == region.n_hidden == row["n_hidden"] >= 0.9 * region.size**2
        np.testing.assert_array_equal(positions, places[hidden])
        assert visible.obs_names.tolist() == slide.obs_names[~hidden].tolist() and not len(visible.obs.columns)
        np.testing.assert_array_equal(visible.X.toarray(), counts[~hidden])
        np.testing.assert_array_equal(visible.obsm["spatial"], places[~hidden])
        np.testing.assert_allclose(visible.layers["log"].toarray(), log[~hidden], rtol=1e-6)
        genes = np.sort(np.argsort(-log[~hidden].var(axis=0))[:40])
        assert np.flatnonzero(visible.var["predicted"]).tolist() == genes.tolist()
        truth, mean = log[hidden][:, genes], log[~hidden][:, genes].mean(axis=0)
        np.testing.assert_allclose(row["mse"], np.mean((truth - mean) ** 2), rtol=1e-5)
        np.testing.assert_allclose(row["floor"], counting_noise_floor(counts[hidden][:, genes], totals[hidden]))
        np.testing.assert_allclose(row["excess"], row["mse"] - row["floor"])
        assert np.isnan(row["pearson"])
        inside = (truth >= mean - 0.5 - 1e-6) & (truth <= mean + 1 + 1e-6)
        np.testing.assert_allclose(row["coverage"], inside.mean())
        np.testing.assert_allclose(row["width"], 1.5, rtol=1e-6)


def test_hidden_counts_change_no_answer(slide, task):
    answers = []

    def spy(visible, positions):
        answers.append((visible.X.toarray(), positions, visible.var["predicted"].to_numpy()))
        return np.zeros((len(positions), int(visible.var["predicted"].sum())))

    region = task.slides[0].regions[-1]
    hidden = hidden_spots(on_grid(slide)[0], region)
    changed = slide.copy()
    counts = slide.X.toarray()
    counts[hidden] = counts[hidden][:, ::-1] + 3
    changed.X = sparse.csr_matrix(counts)
    for adata in (slide, changed):
        one = RegionTask(7, 40, 0.8, 0, (describe(adata, "simulated", (region,)),))
        submit(spy, {"simulated": adata}, name="spy", task=one)
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


def test_baselines_as_methods(slide, task):
    records = submit(region_method(gene_mean), {"simulated": slide}, name="mean", task=task)
    again = submit(region_method(gene_mean), {"simulated": slide}, name="mean", task=task)
    pd.testing.assert_frame_equal(records.drop(columns="seconds"), again.drop(columns="seconds"))
    for name, predictor in REGION_BASELINES.items():
        found = submit(region_method(predictor), {"simulated": slide}, name=name, task=task)
        assert found["mse"].mean() < 1.05 * records["mse"].mean(), name
        assert found["coverage"].isna().all()
    bounded = submit(region_method(kriging, interval=0.8), {"simulated": slide}, name="kriging", task=task)
    assert bounded["coverage"].between(0.6, 1).all() and (bounded["width"] > 0).all()


def test_order_of_spots_and_genes_and_an_own_grid_do_not_matter(slide, task):
    rng = np.random.default_rng(0)
    shuffled = slide[rng.permutation(slide.n_obs), rng.permutation(slide.n_vars)].copy()
    pp.compact_grid(shuffled)
    method = region_method(inverse_distance)
    first = submit(method, {"simulated": slide}, name="idw", task=task)
    second = submit(method, {"simulated": shuffled}, name="idw", task=task)
    np.testing.assert_allclose(first["mse"], second["mse"], rtol=1e-5)
    np.testing.assert_allclose(first["floor"], second["floor"], rtol=1e-5)


def test_spots_without_counts_are_neither_shown_nor_asked_for(slide):
    counts = slide.X.toarray()
    (region,) = draw_regions(slide, (3,), 1, seed=0)
    hidden = hidden_spots(on_grid(slide)[0], region)
    counts[[np.flatnonzero(hidden)[4], np.flatnonzero(~hidden)[0]]] = 0
    changed = slide.copy()
    changed.X = sparse.csr_matrix(counts)
    task = RegionTask(7, 40, 0.8, 0, (describe(changed, "simulated", (region,)),))
    records = submit(region_method(gene_mean), {"simulated": changed}, name="mean", task=task)
    assert records["n_hidden"].tolist() == [region.n_hidden - 1]
    assert np.isfinite(records["mse"]).all()


def test_the_task_that_ships(shared_data):
    task = region_task()
    assert len(task.slides) == 10 and task_from_json(task_to_json(task)) == task
    for slide in task.slides:
        adata = read_h5ad(shared_data / slide.name / f"{slide.name}.h5ad")
        assert counts_fingerprint(adata.X, adata.obs_names, adata.var_names) == slide.sha256
        sites, _ = on_grid(adata)
        assert [int(hidden_spots(sites, part).sum()) for part in slide.regions] == [r.n_hidden for r in slide.regions]
        assert all(part.n_hidden >= 0.9 * part.size**2 for part in slide.regions)
        assert len(set(slide.regions)) == len(slide.regions)


def wrong(change):
    def method(visible, positions):
        return change(np.zeros((len(positions), int(visible.var["predicted"].sum()))))

    return method


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda zeros: zeros[:, 1:], r"'mine' returned prediction of shape \(9, 39\), \(9, 40\)"),
        (lambda zeros: zeros * np.nan, "'mine' returned prediction that are not finite"),
        (lambda zeros: (zeros, zeros), "'mine' returned 2 arrays"),
        (lambda zeros: (zeros, zeros, None), "'mine' returned one bound only"),
        (lambda zeros: (zeros, zeros + 1, zeros), "'mine' returned lower bounds above the upper ones"),
        (lambda zeros: (zeros, zeros[1:], zeros), r"'mine' returned lower bounds of shape \(8, 40\)"),
    ],
)
def test_bad_answers(slide, task, change, message):
    with pytest.raises(ValueError, match=message):
        submit(wrong(change), {"simulated": slide}, name="mine", task=task)


def test_slides_that_are_not_those_of_the_task(slide, task):
    method = region_method(gene_mean)
    with pytest.raises(ValueError, match="`slides` has 'other', the task 'simulated'"):
        submit(method, {"other": slide}, name="mine", task=task)
    with pytest.raises(ValueError, match="has 191 observations and 120 genes, the task's slide 192 and 120"):
        submit(method, {"simulated": slide[1:].copy()}, name="mine", task=task)
    changed = slide.copy()
    changed.X = changed.X.copy()
    changed.X.data[0] += 1
    with pytest.raises(ValueError, match="has other names or counts than the task's slide"):
        submit(method, {"simulated": changed}, name="mine", task=task)
    with pytest.raises(TypeError, match="`slides` must be a dict"):
        submit(method, [slide], name="mine", task=task)
    with pytest.raises(TypeError, match="`method` must be a function"):
        submit(None, {"simulated": slide}, name="mine", task=task)


def test_a_grid_that_changed_is_noticed(slide, task):
    regions = tuple(replace(part, n_hidden=part.n_hidden - 1) for part in task.slides[0].regions)
    other = replace(task, slides=(replace(task.slides[0], regions=regions),))
    with pytest.raises(ValueError, match="its grid is another than the task's"):
        submit(region_method(gene_mean), {"simulated": slide}, name="mine", task=other)
