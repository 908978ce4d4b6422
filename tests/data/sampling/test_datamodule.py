from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from slides import random_slide, within_binomial_bound

from stimage.data import Corpus, WindowDataModule, WindowDataset, WindowSpec, cut_window, window_origins

SPEC = WindowSpec(window=4, n_genes=3, masking="mixed")


def corpus(n_slides=2, **options):
    slides = [random_slide(12, 10 + i, name=str(i), seed=i, **options) for i in range(n_slides)]
    return Corpus(slides, list("abcdef"))


def batches(loader, epoch=0):
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader)


def equal(first, second):
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_windows_depend_on_seed_and_epoch_alone():
    def loader(num_workers=0, seed=0):
        options = {"batch_size": 3, "windows_per_epoch": 7, "num_workers": num_workers, "seed": seed}
        return WindowDataModule(corpus(), SPEC, **options).train_dataloader()

    alone, workers = loader(), loader(num_workers=2)
    first, second = batches(alone), batches(alone, epoch=1)
    assert [len(batch["genes"]) for batch in first] == [3, 3, 1]
    assert equal(first, batches(alone))
    assert equal(first, batches(workers))
    assert equal(second, batches(workers, epoch=1))
    assert not equal(first, second)
    assert not equal(first, batches(loader(seed=1)))
    everything = torch.cat([batch["expression"] for batch in first + second]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == len(everything)


def test_batches_stack_windows():
    data = WindowDataModule(corpus(), SPEC, batch_size=5, windows_per_epoch=5)
    (batch,) = batches(data.train_dataloader())
    dataset = WindowDataset(data.training_slides, SPEC, seed=0)
    for index in range(5):
        window = dataset[index]
        for field, values in batch.items():
            np.testing.assert_array_equal(values[index], getattr(window, field))
    assert {field: values.dtype for field, values in batch.items()} == {
        "expression": torch.float32,
        "genes": torch.int64,
        "gene_valid": torch.bool,
        "observed": torch.bool,
        "hidden": torch.bool,
        "positions": torch.float32,
    }


def test_validation_windows_stay_the_same():
    slides = Corpus([random_slide(30, 30)], list("abcdef"))
    data = WindowDataModule(slides, SPEC, batch_size=4, windows_per_epoch=32, validation_size=0.1)
    first, again = list(data.val_dataloader()), list(data.val_dataloader())
    assert equal(first, again)
    assert sum(len(batch["genes"]) for batch in first) == 8
    assert WindowDataModule(slides, SPEC, windows_per_epoch=32).val_dataloader() == []


def test_slides_by_the_root_of_their_size_and_places_uniformly():
    # Gene 0 numbers every site of both slides, so that a window shows where it was cut.
    slides, first = [], 1
    for shape in ((4, 5), (8, 10)):
        slide = random_slide(*shape, holes=0.0, empty=0.0, name=str(shape), n_genes=1)
        numbers = np.arange(first, first + slide.n_sites, dtype=np.float32)[:, None]
        slides.append(replace(slide, expression=sparse.csr_matrix(numbers), centre=np.zeros(1, np.float32)))
        first += slide.n_sites
    dataset = WindowDataset(slides, WindowSpec(window=3, n_genes=1), seed=0)
    n_draws = 3000
    corners = np.array([dataset[index].expression[0, 0] for index in range(n_draws)]).astype(int)
    expected = {}
    for slide, share, start in zip(slides, (1 / 3, 2 / 3), (1, 21), strict=True):
        n_rows, n_cols = slide.shape
        places = [(i, j) for i in range(n_rows - 2) for j in range(n_cols - 2)]
        expected |= {start + i * n_cols + j: share / len(places) for i, j in places}
    assert set(corners) <= set(expected)
    counts = np.bincount(corners, minlength=101)
    assert within_binomial_bound(counts[list(expected)], n_draws, np.array(list(expected.values())))


def test_origins_are_those_of_the_slide():
    slide = random_slide(10, 10, seed=5)
    dataset = WindowDataset([slide], SPEC, seed=3)
    np.testing.assert_array_equal(dataset.origins[0], window_origins(slide, 4, SPEC.min_occupancy))
    possible = [
        cut_window(slide, top, left, replace(SPEC, n_genes=6), np.random.default_rng(0)).expression.tobytes()
        for top, left in dataset.origins[0]
    ]
    full = WindowDataset([slide], replace(SPEC, n_genes=6), seed=3)
    assert all(full[index].expression.tobytes() in possible for index in range(20))


def test_nothing_to_cut():
    slide = random_slide(empty=1.0)
    with pytest.raises(ValueError, match="No slide has a window of 4 x 4 sites"):
        WindowDataset([slide], SPEC, seed=0)
