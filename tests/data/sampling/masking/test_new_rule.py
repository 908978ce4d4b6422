"""A masking rule that is added from outside of the package is followed wherever windows are cut."""

import numpy as np
import pytest
import torch
from slides import random_slide

import stimage as sti
from stimage.data import MASKINGS, DeviceWindows, MaskingRule, WindowDataset, WindowSpec, cut_window, site_limits
from stimage.data.sampling._window_checks import window_concerns
from stimage.data.sampling.masking._draw import GeneratorRandom


class Band(MaskingRule):
    """Whole rows, as many as the share says, from a random one on."""

    name = "band"

    def draw(self, observed, ratio, random):
        n_rows = observed.shape[1]
        n_hidden = round(ratio * n_rows)
        first = random.integers("first") * (n_rows - n_hidden + 1) >> 32
        row = torch.arange(n_rows, device=observed.device)
        rows = (row >= first[:, None]) & (row < first[:, None] + n_hidden)
        return rows[:, :, None].expand_as(observed)

    def limits(self, window, ratio):
        # Single sites where a band is empty or everything: no more of them than of a band.
        return window**2 - 1, round(ratio * window) * window


@pytest.fixture
def band(monkeypatch):
    monkeypatch.setitem(MASKINGS, "band", Band())
    return WindowSpec(window=8, n_genes=4, masking="band", mask_ratio=0.25)


def bands(hidden):
    """First row of the band of each window, of which all rows are hidden entirely or not at all."""
    rows = hidden.reshape(-1, 8, 8)
    np.testing.assert_array_equal(rows.any(axis=2), rows.all(axis=2))
    np.testing.assert_array_equal(rows.any(axis=2).sum(axis=1), 2)
    return rows.any(axis=2).argmax(axis=1)


def test_on_the_cpu_and_on_the_device_alike(band):
    slide = random_slide(12, 12, holes=0.0, empty=0.0)
    n = 2100
    on_cpu = np.stack([window.hidden for window in WindowDataset([slide], band, seed=0).__getitems__(list(range(n)))])
    windows = DeviceWindows([slide], band, device="cpu", seed=0)
    on_device = windows.batch(torch.arange(n))["hidden"].numpy()
    for hidden in (on_cpu, on_device):
        often = np.bincount(bands(hidden), minlength=7)
        assert len(often) == 7
        np.testing.assert_allclose(often, n / 7, atol=5 * np.sqrt(n / 7))
    assert torch.equal(windows.batch([5, 9])["hidden"], torch.from_numpy(on_device[[5, 9]]))


def test_one_by_one_and_in_a_batch(band):
    slide = random_slide(12, 12, n_genes=6)
    for masking in MASKINGS:
        spec = WindowSpec(window=8, n_genes=4, masking=masking)
        dataset = WindowDataset([slide], spec, seed=0)
        for number, window in enumerate(dataset.__getitems__(list(range(12)))):
            np.testing.assert_array_equal(window.hidden, dataset[number].hidden)


def test_a_band_without_tissue_becomes_single_sites_and_training_says_so(band):
    slide = random_slide(12, 12, holes=0.0, empty=0.0)
    one_row = slide.restrict(np.arange(12)[:, None] + np.zeros(12, int) == 5)
    for seed in range(30):
        window = cut_window(one_row, 0, 0, band, np.random.default_rng(seed))
        assert 0 < window.hidden.sum() < window.observed.sum()
        assert not (window.hidden & ~window.observed).any()
    (concern,) = [text for text in window_concerns([one_row], band) if "masking" in text]
    assert concern.startswith("`masking='band'` hides single sites instead of a region in 100%")
    assert window_concerns([slide], band) == []


def test_limits_are_those_of_the_rule(band):
    assert site_limits(band) == (63, 16)
    slides = [random_slide(8, 8, holes=holes, empty=0.0, seed=seed) for holes in (0.0, 0.6, 0.9) for seed in range(3)]
    spec = WindowSpec(window=8, n_genes=4, masking="band", mask_ratio=0.25, min_occupancy=0.0)
    batch = DeviceWindows(slides, spec, device="cpu", seed=0).batch(torch.arange(500))
    hidden = batch["hidden"].sum(dim=1)
    assert hidden.max() == 16
    assert (batch["observed"].sum(dim=1) - hidden).max() <= 63


@pytest.mark.parametrize("sampling", ["cpu", "device"])
def test_a_model_trains_with_it(band, sampling):
    adata = sti.datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=40, seed=0)
    sti.pp.compact_grid(adata)
    model = sti.models.STImage(adata, window=8, n_pool_genes=30, n_genes=10, masking="band", mask_ratio=0.25)
    model.train(1, windows_per_epoch=8, batch_size=4, sampling=sampling, enable_progress_bar=False, accelerator="cpu")
    sti.tl.embed(adata, model)
    assert np.isfinite(adata.obsm["X_stimage"]).all()


def test_a_rule_that_is_not_known():
    with pytest.raises(
        ValueError, match="`masking` must be one of 'site', 'site_gene', 'region', 'mixed', found 'ring'"
    ):
        WindowSpec(masking="ring")


@pytest.mark.parametrize("masking", ["site", "region", "mixed"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 6)])
def test_images_that_are_no_squares(masking, shape):
    observed = torch.ones((50, *shape), dtype=torch.bool)
    genes = torch.ones((50, 3), dtype=torch.bool)
    random = GeneratorRandom([np.random.default_rng(seed) for seed in range(50)])
    hidden = MASKINGS[masking].hide(observed, genes, 0.3, random)
    assert hidden.shape == observed.shape
    share = hidden.double().mean(dim=(1, 2))
    assert share.min() > 0 and share.max() < 1
    assert abs(share.mean() - {"mixed": 0.25}.get(masking, 0.3)) < 0.08
