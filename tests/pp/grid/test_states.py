"""States in which AnnData come: the grid is that of an independent reference, or a message says what is wrong."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from stimage import pp

PITCH = 120.0


def lattice(kind, n_rows, n_cols, seed, keep=1.0):
    """Array rows, array columns and pixel positions of a lattice in random order, some of its spots left out."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    if kind == "hex":
        array_col = 2 * col + row % 2
        xy = np.column_stack([array_col * PITCH / 2, row * PITCH * np.sqrt(3) / 2])
    else:
        array_col, xy = col, np.column_stack([col, row]) * PITCH
    kept = rng.permutation(len(row))[: max(20, int(keep * len(row)))]
    return row[kept], array_col[kept], xy[kept]


def slide(kind="hex", n_rows=14, n_cols=12, seed=0, keep=0.9, name="s"):
    row, col, xy = lattice(kind, n_rows, n_cols, seed, keep)
    rng = np.random.default_rng(seed + 1)
    counts = sparse.csr_matrix(rng.poisson(2.0, (len(row), 5)).astype(np.float32))
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"{name}{i}" for i in range(len(row))])
    return AnnData(counts, obs=obs, obsm={"spatial": xy})


def neighbours_in_space(xy, pitch=PITCH):
    """Pairs of observations one pitch apart, by all distances."""
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    return np.abs(distance - pitch) < 0.1 * pitch


def neighbours_on_grid(adata, grid):
    """Pairs of observations that the grid makes neighbours, in the geometry that its layout stands for."""
    row, col = adata.obs["grid_row"].to_numpy(float), adata.obs["grid_col"].to_numpy(float)
    if grid["layout"] == "hex":
        x = col + 0.5 * ((row.astype(int) + int(grid["parity"])) % 2)
        y = row * np.sqrt(3) / 2
    else:
        x, y = col, row
    return neighbours_in_space(np.column_stack([x, y]), 1.0)


def gridded(adata, **options):
    """Error or messages of ``compact_grid``; the AnnData is as before where it is refused."""
    keys = sorted(adata.obs), sorted(adata.obsm), sorted(adata.uns)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pp.compact_grid(adata, **options)
        except (ValueError, KeyError, TypeError) as error:
            assert keys == (sorted(adata.obs), sorted(adata.obsm), sorted(adata.uns))
            return str(error), []
    return None, [str(one.message) for one in caught if one.category is UserWarning]


TRIED = {"right": 0, "told": 0, "refused": 0}


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def any_state(data):
    """The right grid, or a message."""
    kind = data.draw(st.sampled_from(["hex", "square"]))
    seed = data.draw(st.integers(0, 10_000))
    n_slides = data.draw(st.sampled_from([1, 1, 2]))
    keep = data.draw(st.sampled_from([0.5, 0.8, 1.0]))
    parts = [slide(kind, seed=seed + number, keep=keep, name=f"s{number}_") for number in range(n_slides)]
    if data.draw(st.booleans()):  # grids from before
        for part in parts:
            gridded(part)
    rng = np.random.default_rng(seed)
    truth = [part.obsm["spatial"].copy() for part in parts]
    for part in parts:
        flips = data.draw(st.sampled_from([(1, 1), (-1, 1), (1, -1)]))
        part.obsm["spatial"] = part.obsm["spatial"] * flips + data.draw(st.sampled_from([0.0, 1e4]))
    source = data.draw(st.sampled_from(["both", "array", "spatial"]))
    place = data.draw(st.sampled_from(["obsm", "three columns", "frame", "obs"]))
    fault = data.draw(
        st.sampled_from(["none", "none", "scrambled", "pixels", "one bad", "other slide", "duplicate", "half a row"])
    )
    for number, part in enumerate(parts):
        if number == 0 and fault == "scrambled":
            order = rng.permutation(part.n_obs)
            part.obs["array_row"], part.obs["array_col"] = part.obs[["array_row", "array_col"]].to_numpy()[order].T
        elif number == 0 and fault == "pixels":
            scale = data.draw(st.sampled_from([1.0, 0.2, 0.05]))
            part.obs["array_col"], part.obs["array_row"] = np.rint(part.obsm["spatial"] * scale).astype(int).T
        elif number == 0 and fault == "one bad":
            part.obsm["spatial"][3] += PITCH * np.array([0.55, 0.4])
        elif number == 0 and fault == "other slide":
            other = slide(kind, seed=seed + 99, keep=keep)
            part.obs["array_row"], part.obs["array_col"] = (
                other.obs[["array_row", "array_col"]].to_numpy()[np.arange(part.n_obs) % other.n_obs].T
            )
        elif number == 0 and fault == "half a row":  # rows numbered anew after a gap was dropped
            behind = part.obs["array_row"].to_numpy() > 6
            part.obs["array_row"] = part.obs["array_row"].to_numpy() + 2 * behind
        if source == "array":
            del part.obsm["spatial"]
        elif source == "spatial":
            part.obs = part.obs.drop(columns=["array_row", "array_col"])
    join = data.draw(st.sampled_from(["inner", "outer"]))
    merge = data.draw(st.sampled_from([None, "same", "unique", "first"]))
    if n_slides > 1:
        parts[1].var_names = [f"{name}x" if join == "outer" and name == "4" else name for name in parts[1].var_names]
        adata = ad.concat(dict(zip("ab", parts, strict=True)), label="section", join=join, uns_merge=merge)
    else:
        adata = parts[0]
        adata.obs["section"] = "a"
    if fault == "duplicate":
        adata = adata[np.append(np.arange(adata.n_obs), 0)].copy()
        adata.obs_names_make_unique()
        truth[-1] = np.vstack([truth[-1], truth[0][:1]]) if n_slides == 1 else truth[-1]
    if "spatial" in adata.obsm:
        xy = adata.obsm["spatial"]
        if place == "three columns":
            adata.obsm["spatial"] = np.column_stack([xy, np.zeros(len(xy))])
        elif place == "frame":
            adata.obsm["spatial"] = pd.DataFrame({"y": xy[:, 1], "x": xy[:, 0]}, index=adata.obs_names)
        elif place == "obs":
            adata.obs["x"], adata.obs["y"] = xy.T
            del adata.obsm["spatial"]
    adata.X = adata.X.astype(data.draw(st.sampled_from([np.float32, np.float64, np.int32])))
    if data.draw(st.booleans()):
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.astype(np.float32) * 0.5
    error, told = gridded(adata, slide_key="section")
    if error is not None:
        TRIED["refused"] += 1
        assert fault != "none", error
        assert len(error) > 40
        return
    told = [message for message in told if "Coordinates are taken from" not in message or len(message) > 130]
    if told:
        TRIED["told"] += 1
        assert fault != "none", told
        if fault != "one bad":
            return
    TRIED["right"] += 1
    if fault == "duplicate":  # of two that are the same, one would be elsewhere
        pytest.fail("duplicates were taken without a word")
    changed = fault in ("scrambled", "pixels", "other slide", "half a row") and source != "spatial"
    for number, name in enumerate("ab"[:n_slides]):
        part = adata[adata.obs["section"] == name]
        grid = adata.uns["grid"]["slides"].loc[name]
        if changed and number == 0 and source == "array" and fault != "pixels":
            continue  # nothing to compare the array positions with
        expected, found = neighbours_in_space(truth[number]), neighbours_on_grid(part, grid)
        if fault == "one bad" and number == 0:
            others = np.arange(part.n_obs) != 3
            expected, found = expected[others][:, others], found[others][:, others]
        np.testing.assert_array_equal(found, expected)


def test_any_state_gives_the_right_grid_or_a_message():
    """Both ends of the property occur: right grids, and slides that are refused or spoken of."""
    any_state()
    assert TRIED["right"] > 50 and TRIED["refused"] > 20, TRIED
