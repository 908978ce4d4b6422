import numpy as np
import pandas as pd

from stimage.models.clustering._number import _tiles, agreement_of_halves, steady_number


def test_the_largest_clear_number_or_the_smallest_near_the_best():
    curve = pd.DataFrame({"n_domains": [2, 3, 4, 5, 6], "agreement": [1.0, 0.5, 0.77, 0.8, 0.81], "deviation": 0.0})
    assert steady_number(curve) == 4
    assert steady_number(curve.iloc[:1]) == 2
    clear = pd.DataFrame({"n_domains": [2, 3, 4, 5, 6], "agreement": [1.0, 1.0, 0.75, 0.95, 0.8], "deviation": 0.0})
    assert steady_number(clear) == 5


def test_tiles_have_as_many_observations():
    rng = np.random.default_rng(0)
    slides = np.repeat(["a", "b"], 3600)
    tiles = _tiles(rng.random((7200, 2)) ** 2, slides)
    sizes = pd.Series(tiles).groupby([slides, tiles]).size()
    assert len(sizes) == 72 == len(np.unique(tiles))
    assert sizes.between(60, 140).all()


def test_smooth_noise_agrees_by_chance_and_groups_do():
    rng = np.random.default_rng(0)
    positions = rng.random((1200, 2))
    slides = np.zeros(1200)
    groups = np.searchsorted([0.3, 0.7], positions[:, 0])
    centres = 5 * np.eye(3)
    clear = agreement_of_halves(centres[groups] + rng.normal(size=(1200, 3)), positions, slides, 0, show_progress=False)
    # Halves of the tissue cannot agree on what differs from tile to tile, however smooth it is.
    waves = np.column_stack([np.cos(7 * k * positions @ rng.normal(size=2)) for k in range(1, 9)])
    none = agreement_of_halves(waves, positions, slides, 0, show_progress=False)
    assert clear.set_index("n_domains")["agreement"][3] > 0.95
    assert none.set_index("n_domains")["agreement"][3] < 0.9
    assert steady_number(clear) == 3
