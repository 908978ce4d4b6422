import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stimage as sti
from stimage.data import LATTICES
from stimage.pl._sites import outline, slide_sites


def cells_of(layout, rows, cols, parity):
    return LATTICES[layout].cells(LATTICES[layout].positions(rows, cols, parity))


def inside(point, edges):
    """Whether a point is inside of closed curves given as edges: a ray crosses them an odd number of times."""
    a, b = edges[:, 0] - point, edges[:, 1] - point
    crosses = (a[:, 1] > 0) != (b[:, 1] > 0)
    a, b = a[crosses], b[crosses]
    return (a[:, 0] - a[:, 1] * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1]) > 0).sum() % 2 == 1


@settings(deadline=None, max_examples=40)
@given(
    layout=st.sampled_from(["hex", "square"]),
    parity=st.integers(0, 1),
    hidden=st.lists(st.booleans(), min_size=30, max_size=30).filter(any),
    turn=st.floats(0, 6.3),
)
def test_outline_encloses_exactly_the_hidden_sites(layout, parity, hidden, turn):
    rows, cols = np.divmod(np.arange(30), 6)
    cells = cells_of(layout, rows, cols, parity if layout == "hex" else 0)
    cells = cells @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 137 + 1e4
    hidden = np.array(hidden)
    edges = outline(cells[hidden])
    centres = cells.mean(axis=1) + 1e-3  # no ray through a corner
    np.testing.assert_array_equal([inside(centre, edges) for centre in centres], hidden)


@pytest.mark.parametrize("layout, corners", [("hex", 6), ("square", 4)])
def test_cells_tile_the_plane(layout, corners):
    rows, cols = np.divmod(np.arange(30), 6)
    cells = cells_of(layout, rows, cols, 0)
    assert cells.shape == (30, corners, 2)
    x, y = cells[..., 0], cells[..., 1]
    area = 0.5 * np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(axis=1))
    np.testing.assert_allclose(area, np.sqrt(3) / 2 if layout == "hex" else 1.0, rtol=1e-5)
    # In a tiling each inner edge is shared: the outline has as many edges as Euler's count of an uncut block leaves.
    n_edges = {"hex": 6 * 30 - 2 * (5 * 5 + 4 * (2 * 6 - 1)), "square": 4 * 30 - 2 * (5 * 5 + 4 * 6)}[layout]
    assert len(outline(cells)) == n_edges


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
def test_cells_lie_on_the_spots_of_a_turned_slide(angle):
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=12, n_genes=40, n_domains=3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    adata.obsm["spatial"] = adata.obsm["spatial"] @ turn + 500
    sti.pp.compact_grid(adata)
    (slide,) = slide_sites(adata, "grid")
    centres = slide.cells.mean(axis=1)[slide.site]
    pitch = adata.uns["grid"]["slides"].loc["slide", "pitch"]
    assert np.abs(centres - adata.obsm["spatial"][slide.observations]).max() < 0.05 * pitch


def test_without_coordinates_cells_are_those_of_the_lattice():
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=12, n_genes=40, n_domains=3)
    del adata.obsm["spatial"]
    sti.pp.compact_grid(adata)
    (slide,) = slide_sites(adata, "grid")
    np.testing.assert_array_equal(np.rint(slide.cells.mean(axis=1)[:, 1] / (np.sqrt(3) / 2)), slide.index[:, 0])
