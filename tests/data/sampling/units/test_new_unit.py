"""A sample unit that is added from outside of the package gives samples wherever data are drawn."""

import numpy as np
import pytest
from slides import random_slide

from stimage.data import (
    UNITS,
    Corpus,
    DeviceWindowDataModule,
    SampleKind,
    SampleUnit,
    SpotDataset,
    SpotSampler,
    WindowDataModule,
    WindowSpec,
)

SPEC = WindowSpec(window=6, n_genes=4)


class RowUnit(SampleKind):
    """A spot with the nearest spot, in groups of the rows of the raster: both the context and the groups are its own."""

    name = "row"

    def tokens_per_spot(self, unit):
        return 2

    def prepare(self, slide, unit, *, seed):
        return slide.site_index[:, 0]

    def context(self, spots, nearest, unit):
        return nearest(spots, 1)

    def groups(self, sites, prepared):
        return np.where(sites >= 0, prepared[sites], -1)


@pytest.fixture
def unit(monkeypatch):
    monkeypatch.setitem(UNITS, "row", RowUnit())
    return SampleUnit("row")


def test_samples_are_made_as_the_unit_says(unit):
    slide = random_slide(9, 9, n_genes=6)
    sampler = SpotSampler(slide, unit, seed=0)
    sample = sampler.draw(SPEC, np.random.default_rng(0))
    assert sample.expression.shape == (36, 4)
    # Sites of the tokens, from their positions alone.
    distance = np.linalg.norm(sample.positions[:, None] - slide.positions, axis=-1)
    sites = np.where(sample.observed, distance.argmin(axis=1), -1)
    spots, partners = sites[::2], sites[1::2]
    assert len(set(spots[spots >= 0])) == (spots >= 0).sum()
    active = np.flatnonzero(slide.active)
    for spot, partner in zip(spots, partners, strict=True):
        if spot >= 0:
            others = active[active != spot]
            apart = np.linalg.norm(slide.positions[others] - slide.positions[spot], axis=1)
            assert apart.min() == pytest.approx(np.linalg.norm(slide.positions[partner] - slide.positions[spot]))
    np.testing.assert_array_equal(sample.group[sites >= 0], slide.site_index[sites[sites >= 0], 0])
    # Values of the spots alone are hidden.
    assert sample.hidden[::2].any() and not sample.hidden[1::2].any()


def test_a_data_module_gives_batches_of_it(unit):
    corpus = Corpus([random_slide(12, 12, name=str(i), seed=i) for i in range(2)], list("abcdef"))
    data = WindowDataModule(corpus, SPEC, batch_size=4, windows_per_epoch=8, seed=3, unit=unit)
    batches = list(data.train_dataloader())
    dataset = SpotDataset(list(corpus), SPEC, unit, seed=3)
    assert len(batches) == 2
    for number in range(8):
        np.testing.assert_array_equal(batches[number // 4]["group"][number % 4], dataset[number].group)
    with pytest.raises(ValueError, match="Only windows are cut on a device, not the sample unit 'row'"):
        DeviceWindowDataModule(corpus, SPEC, windows_per_epoch=8, unit=unit)


def test_a_unit_that_is_not_known():
    with pytest.raises(ValueError, match="`unit` must be one of 'spot', 'neighborhood', 'slice', 'patch', found 'row'"):
        SampleUnit("row")
