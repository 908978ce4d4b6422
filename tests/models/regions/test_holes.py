import numpy as np
import pytest
from scipy import ndimage
from slides import random_slide

from stimage.models.regions._holes import enclosed, site_coordinates, with_holes

HEX = {0: [(-1, -1), (-1, 0), (1, -1), (1, 0)], 1: [(-1, 0), (-1, 1), (1, 0), (1, 1)]}


def flooded(tissue, layout, parity):
    """Empty sites that a flood from outside does not reach, site by site."""
    shape = np.array(tissue.shape)
    reached, waiting = set(), [(-1, -1)]
    while waiting:
        row, col = waiting.pop()
        inside = 0 <= row < shape[0] and 0 <= col < shape[1]
        if (row, col) in reached or not (-1 <= row <= shape[0] and -1 <= col <= shape[1]):
            continue
        if inside and tissue[row, col]:
            continue
        reached.add((row, col))
        steps = [(0, -1), (0, 1)]
        steps += HEX[(row + parity) % 2] if layout == "hex" else [(-1, 0), (1, 0)]
        waiting += [(row + down, col + right) for down, right in steps]
    return np.array([[not tissue[r, c] and (r, c) not in reached for c in range(shape[1])] for r in range(shape[0])])


@pytest.mark.parametrize("layout", ["hex", "square", "bins"])
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_enclosed_against_a_flood(layout, parity, seed):
    tissue = np.random.default_rng(seed).random((11, 9)) < 0.65
    found = enclosed(tissue, layout=layout, parity=parity)
    np.testing.assert_array_equal(found, flooded(tissue, layout, parity))
    if layout == "square":
        np.testing.assert_array_equal(found, ndimage.binary_fill_holes(tissue) & ~tissue)


def test_slide_with_a_site_for_each_hole():
    slide = random_slide(12, 11, seed=3)
    larger, without_data = with_holes(slide)
    holes = enclosed(slide.raster >= 0, layout=slide.layout, parity=slide.parity)
    assert holes.any()
    np.testing.assert_array_equal(larger.raster >= 0, (slide.raster >= 0) | holes)
    np.testing.assert_array_equal(np.sort(larger.raster[larger.raster >= 0]), np.arange(larger.n_sites))
    for row, col in np.argwhere(larger.raster >= 0):
        site, earlier = larger.raster[row, col], slide.raster[row, col]
        if earlier < 0:
            assert without_data[site]
            assert not larger.expression[site].nnz
        else:
            assert without_data[site] == (slide.library_size[earlier] == 0)
            np.testing.assert_array_equal(larger.expression[site].toarray(), slide.expression[earlier].toarray())
    # Observations are where they were.
    np.testing.assert_array_equal(
        larger.site_index[larger.site_of_observation], slide.site_index[slide.site_of_observation]
    )
    np.testing.assert_allclose(larger.gene_mean, slide.gene_mean, rtol=1e-6)


def test_coordinates_of_a_rotated_slide():
    slide, _ = with_holes(random_slide(12, 11, empty=0.0, seed=3))
    angle = 0.3
    turn = 137 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    rows, cols = slide.site_index.T
    truth = np.column_stack([cols + 0.5 * (rows % 2), rows * np.sqrt(3) / 2]) @ turn + [50.0, -7.0]
    order = np.random.default_rng(0).permutation(len(slide.observation_index))
    coordinates = np.full((len(order), 2), np.nan)
    coordinates[slide.observation_index] = truth[slide.site_of_observation]
    np.testing.assert_allclose(site_coordinates(slide, coordinates), truth, atol=1e-4)
    # A bend of the slide is followed up to what one site adds.
    bent = truth + 0.05 * truth**2 / 137
    coordinates[slide.observation_index] = bent[slide.site_of_observation]
    found = site_coordinates(slide, coordinates)
    known = np.bincount(slide.site_of_observation, minlength=slide.n_sites) > 0
    np.testing.assert_allclose(found[known], bent[known], atol=1e-9)
    assert np.abs(found - bent)[~known].max() < 0.3 * 137
