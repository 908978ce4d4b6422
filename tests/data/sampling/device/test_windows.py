from collections import Counter
from dataclasses import replace
from itertools import permutations

import lightning
import numpy as np
import pytest
import torch
from slides import random_slide, within_binomial_bound

from stimage.data import (
    Corpus,
    DeviceWindowDataModule,
    DeviceWindows,
    SampleUnit,
    WindowDataModule,
    WindowSpec,
    cut_window,
    site_limits,
    window_origins,
)
from stimage.data.sampling.device._counter_random import CounterRandom

SPEC = WindowSpec(window=5, n_genes=4, masking="site")


def some_slides():
    layouts = [("hex", 0), ("hex", 1), ("square", 0)]
    return [
        random_slide(
            4 + 5 * i, 6 + i, n_genes=6, unmeasured=3 * (i == 1), layout=layout, parity=parity, seed=i, name=str(i)
        )
        for i, (layout, parity) in enumerate(layouts)
    ]


def on_cpu(slides, spec=SPEC, seed=0, **options):
    return DeviceWindows(slides, spec, device="cpu", seed=seed, **options)


@pytest.mark.parametrize("selection", ["weighted", "hvg", "random"])
@pytest.mark.parametrize("masking", ["site", "region", "mixed", "site_gene"])
def test_windows_are_those_of_the_slides(selection, masking):
    slides = some_slides()
    spec = replace(SPEC, gene_selection=selection, masking=masking)
    windows = on_cpu(slides, spec)
    numbers = list(range(40))
    batch = windows.batch(numbers)
    for i, (number, top, left) in enumerate(zip(*(part.tolist() for part in windows.places(numbers)), strict=True)):
        slide = slides[number]
        expected = cut_window(slide, top, left, spec, np.random.default_rng(0))
        window = {name: values[i].numpy() for name, values in batch.items()}
        assert {name: (values.shape, values.dtype) for name, values in window.items()} == {
            name: (values.shape, values.dtype) for name, values in vars(expected).items()
        }
        np.testing.assert_array_equal(window["observed"], expected.observed)
        np.testing.assert_array_equal(window["gene_valid"], expected.gene_valid)
        np.testing.assert_allclose(window["positions"], expected.positions, atol=1e-5)
        genes = window["genes"][window["gene_valid"]]
        assert (np.diff(genes) > 0).all() and slide.measured[genes].all()
        assert not window["genes"][~window["gene_valid"]].any()
        if selection == "hvg":
            np.testing.assert_array_equal(window["genes"], expected.genes)
        # The expression of these genes, read from the slide site by site.
        dense = slide.expression.toarray()
        shown = np.zeros_like(window["expression"])
        for site, (row, column) in enumerate(np.ndindex(5, 5)):
            if window["observed"][site]:
                values = dense[slide.raster[top + row, left + column]]
                shown[site, window["gene_valid"]] = (values - slide.gene_mean)[genes]
        np.testing.assert_allclose(window["expression"], shown, rtol=0, atol=dense.max() * 2.0**-11)
        hidden = window["hidden"]
        allowed = window["observed"]
        if masking == "site_gene":
            allowed = allowed[:, None] & window["gene_valid"]
        elif masking == "site":
            assert hidden.sum() == expected.hidden.sum()
        assert not (hidden & ~allowed).any()
        assert masking == "site_gene" or 0 < hidden.sum() < allowed.sum()


def test_expression_in_single_precision_is_that_of_the_slide():
    slide = random_slide(8, 8, n_genes=4)
    windows = on_cpu([slide], replace(SPEC, n_genes=9), dtype=torch.float32)
    batch = windows.batch([3])
    _, top, left = (int(part) for part in windows.places([3]))
    expected = cut_window(slide, top, left, windows.spec, np.random.default_rng(0))
    np.testing.assert_allclose(batch["expression"][0], expected.expression, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batch["genes"][0], expected.genes)
    np.testing.assert_array_equal(batch["gene_valid"][0], expected.gene_valid)


@pytest.mark.parametrize("masking", ["site", "region", "mixed", "site_gene"])
def test_a_window_does_not_depend_on_its_batch(masking):
    windows = on_cpu(some_slides(), replace(SPEC, masking=masking))
    together = windows.batch(torch.arange(20))
    for numbers in ([7], [19, 0, 7], range(10, 20)):
        alone = on_cpu(some_slides(), windows.spec).batch(numbers)
        for name, values in alone.items():
            assert torch.equal(values, together[name][list(numbers)]), name
    other = on_cpu(some_slides(), windows.spec, seed=1).batch(torch.arange(20))
    assert not torch.equal(other["expression"], together["expression"])
    assert len(torch.unique(together["hidden"].flatten(1), dim=0)) > 10


def test_slides_by_the_root_of_their_size_and_places_uniformly():
    slides = [random_slide(n, n, holes=0.0, empty=0.0, seed=n, name=str(n)) for n in (3, 6, 9)]
    windows = on_cpu(slides, replace(SPEC, window=4))
    n_draws = 20_000
    slide, top, left = (part.numpy() for part in windows.places(torch.arange(n_draws)))
    share = np.array([3, 6, 9]) / 18
    assert within_binomial_bound(np.bincount(slide, minlength=3), n_draws, share)
    origins = [tuple(origin) for origin in window_origins(slides[2], 4, 0.25).tolist()]
    drawn = Counter(zip(top[slide == 2].tolist(), left[slide == 2].tolist(), strict=True))
    assert set(drawn) == set(origins)
    count = np.array([drawn[origin] for origin in origins])
    assert within_binomial_bound(count, int(count.sum()), 1 / len(origins))


def test_slides_without_windows_are_never_drawn():
    slides = [random_slide(6, 6, holes=0.0, empty=0.0), random_slide(6, 6, holes=0.0, empty=1.0, name="empty")]
    for order in (slides, slides[::-1]):
        drawn = on_cpu(order).places(torch.arange(500))[0]
        assert (drawn == order.index(slides[0])).all()
    with pytest.raises(ValueError, match="No slide has a window of 5 x 5 sites"):
        on_cpu(slides[1:])


def test_genes_are_drawn_one_after_the_other_in_proportion_to_their_variance():
    slide = random_slide(5, 5, n_genes=5, unmeasured=1, holes=0.0, empty=0.0)
    variance = slide.expression.toarray().var(axis=0)[:4]
    genes = on_cpu([slide], replace(SPEC, n_genes=2)).batch(torch.arange(20_000))["genes"].numpy()
    drawn = Counter(map(tuple, genes.tolist()))
    share = variance / variance.sum()
    expected = Counter()
    for first, second in permutations(range(4), 2):
        expected[tuple(sorted((first, second)))] += share[first] * share[second] / (1 - share[first])
    assert sum(expected.values()) == pytest.approx(1)
    pairs = sorted(expected)
    assert within_binomial_bound([drawn[pair] for pair in pairs], 20_000, [expected[pair] for pair in pairs])


def test_genes_drawn_at_random_and_single_sites_are_uniform():
    slide = random_slide(5, 5, n_genes=5, holes=0.0, empty=0.0)
    spec = replace(SPEC, n_genes=2, gene_selection="random", mask_ratio=0.2)
    batch = on_cpu([slide], spec).batch(torch.arange(20_000))
    assert within_binomial_bound(np.bincount(batch["genes"].flatten(), minlength=5), 20_000, np.full(5, 2 / 5))
    assert within_binomial_bound(batch["hidden"].sum(dim=0).numpy(), 20_000, np.full(25, 5 / 25))
    # Hidden pairs of sites are as frequent as of independent draws without replacement.
    together = (batch["hidden"][:, 3] & batch["hidden"][:, 17]).sum().item()
    assert within_binomial_bound(together, 20_000, 5 * 4 / (25 * 24))


@pytest.mark.parametrize("masking", ["region", "mixed"])
def test_regions_are_distributed_as_on_the_cpu(masking):
    slide = random_slide(6, 6, holes=0.0, empty=0.0)
    spec = WindowSpec(window=6, n_genes=2, masking=masking, mask_ratio=0.3)
    n_draws = 4000
    hidden = on_cpu([slide], spec).batch(torch.arange(n_draws))["hidden"]
    rng = np.random.default_rng(0)
    expected = torch.from_numpy(np.stack([cut_window(slide, 0, 0, spec, rng).hidden for _ in range(n_draws)]))

    def shapes(masks):
        rows, columns = masks.view(-1, 6, 6).any(dim=2).sum(dim=1), masks.view(-1, 6, 6).any(dim=1).sum(dim=1)
        return Counter(zip(rows.tolist(), columns.tolist(), masks.sum(dim=1).tolist(), strict=True))

    found, reference = shapes(hidden), shapes(expected)
    for shape in found | reference:
        # Both are counts: their difference has twice the variance of one.
        share = (found[shape] + reference[shape]) / (2 * n_draws)
        assert abs(found[shape] - reference[shape]) < 5 * np.sqrt(2 * n_draws * share * (1 - share)) + 1, shape
    deviation = (2 * 0.25 * n_draws) ** 0.5
    assert ((hidden.sum(dim=0) - expected.sum(dim=0)).abs() < 5 * deviation).all()


def test_hidden_values_have_the_share_asked_for():
    slide = random_slide(5, 5, n_genes=5, holes=0.0, empty=0.0)
    hidden = on_cpu([slide], replace(SPEC, masking="site_gene", mask_ratio=0.7)).batch(torch.arange(2000))["hidden"]
    assert within_binomial_bound(hidden.sum(dim=0).numpy(), 2000, np.full((25, 4), 0.7))


def test_random_numbers_are_uniform_and_independent():
    random = CounterRandom(3, torch.arange(300))
    first, second = (random.uniform(stream, 500).double().numpy() for stream in ("one", "other"))
    assert first.min() > 0 and first.max() < 1
    assert within_binomial_bound(np.histogram(first, 50, (0, 1))[0], first.size, 1 / 50)
    neighbours = [(first, second), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])]
    for a, b in neighbours:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / a.size**0.5
    assert len(np.unique(random.integers("one", 500))) > 0.9999 * first.size
    assert not torch.equal(random.integers("one", 9), CounterRandom(4, torch.arange(300)).integers("one", 9))
    large = CounterRandom(3, torch.tensor([5, 5 + 2**40]))
    assert not torch.equal(*large.integers("one", 9))


@pytest.mark.parametrize("masking", ["site", "region", "mixed"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_site_limits_hold_and_are_reached(masking, ratio):
    spec = WindowSpec(window=4, n_genes=2, masking=masking, mask_ratio=ratio, min_occupancy=0.0)
    slides = [random_slide(4, 4, holes=h, empty=0.0, seed=s, name=f"{h}{s}") for h in (0.0, 0.5, 0.9) for s in range(4)]
    batch = on_cpu(slides, spec).batch(torch.arange(3000))
    hidden = batch["hidden"].sum(dim=1)
    visible = batch["observed"].sum(dim=1) - hidden
    most_visible, most_hidden = site_limits(spec)
    assert hidden.max() == most_hidden
    assert visible.max() <= most_visible
    assert masking != "site" or visible.max() == most_visible


def test_expression_that_does_not_fit():
    slides = some_slides()
    needed = (sum(slide.n_sites for slide in slides) + 1) * 6 * 2
    on_cpu(slides, memory_limit=needed)
    with pytest.raises(MemoryError, match="sample on the CPU"):
        on_cpu(slides, memory_limit=needed - 1)


def test_expression_on_disk(tmp_path):
    slides = some_slides()
    Corpus(slides, list("abcdef")).write(tmp_path / "corpus")
    opened = Corpus.open(tmp_path / "corpus").to_target_sum(slides[0].target_sum)
    stored = on_cpu(list(opened)).batch(range(12))
    for name, values in on_cpu(slides).batch(range(12)).items():
        # Conversion to another number of counts and back rounds before half precision does.
        torch.testing.assert_close(stored[name], values, rtol=0, atol=0.01 if name == "expression" else 1e-6)


def corpus():
    return Corpus([random_slide(30, 30, name=str(i), seed=i) for i in range(2)], list("abcdef"))


def module_of(kind, **options):
    return kind(corpus(), SPEC, batch_size=4, windows_per_epoch=16, validation_size=0.1, seed=3, **options)


def seen_by_a_trainer(data):
    class Recorder(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.training_batches, self.validation_batches = [], []

        def training_step(self, batch, index):
            self.training_batches.append(batch)
            return self.weight * 1.0

        def validation_step(self, batch, index):
            self.validation_batches.append(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    recorder = Recorder()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=2, num_sanity_val_steps=0, log_every_n_steps=1, **options).fit(recorder, data)
    return recorder


def test_data_module_in_a_training():
    data = module_of(DeviceWindowDataModule, num_workers=2)
    seen = seen_by_a_trainer(data)
    training = DeviceWindows(data.training_slides, SPEC, device="cpu", seed=3)
    held_out = DeviceWindows(data.validation_slides, SPEC, device="cpu", seed=4)
    assert len(seen.training_batches) == 8 and len(seen.validation_batches) == 2
    for step, batch in enumerate(seen.training_batches):
        expected = training.batch(range(4 * step, 4 * step + 4))
        assert all(torch.equal(batch[name], values) for name, values in expected.items())
    for batch in seen.validation_batches:
        expected = held_out.batch(range(4))
        assert all(torch.equal(batch[name], values) for name, values in expected.items())
    # The parts of a slide that is split share its expression.
    assert len(data._expression.values) == sum(slide.n_sites for slide in corpus()) + 1


def test_data_module_goes_on_without_the_device():
    with pytest.warns(UserWarning, match="Windows are cut on the CPU"):
        seen = seen_by_a_trainer(module_of(DeviceWindowDataModule, memory_limit=100))
    expected = list(module_of(WindowDataModule).train_dataloader())
    for batch, other in zip(seen.training_batches[:4], expected, strict=True):
        assert all(torch.equal(batch[name], values) for name, values in other.items())


def test_only_windows_are_cut_on_a_device():
    with pytest.raises(ValueError, match="Only windows are cut on a device, not the sample unit 'spot'"):
        module_of(DeviceWindowDataModule, unit=SampleUnit("spot"))
