import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from slides import random_slide

from stimage.data import AlignmentDataModule, AlignmentDataset, PairedSlide
from stimage.data.sampling._alignment_data import in_order

pytestmark = pytest.mark.filterwarnings("ignore:.*num_workers")


def paired(n_rows, *, number=0, empty=0.2):
    """A slide whose spots can be told in a batch: their image is the number of the slide and of the spot."""
    slide = random_slide(n_rows, 6, empty=empty, seed=number)
    names = np.column_stack([np.full(slide.n_sites, number), np.arange(slide.n_sites)]).astype(np.float32)
    return PairedSlide(slide, sparse.identity(slide.n_sites, format="csr"), spot_image=names)


def spots_of(batch):
    return [tuple(row) for row in batch["spot_image"].int().tolist()]


def measured(slides):
    return [
        (number, spot)
        for number, slide in enumerate(slides)
        for spot in range(slide.n_spots)
        if slide.slide.library_size[slide.slide.site_of_observation[spot]] > 0
    ]


def epoch(dataset, number=0):
    return [dataset[number * dataset.n_batches + i] for i in range(dataset.n_batches)]


def equal(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    batch_size=st.integers(2, 40),
    negatives=st.sampled_from(["slide", "batch"]),
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(0, 5),
)
def test_an_epoch_has_each_measured_spot_once(rows, batch_size, negatives, seed, number):
    slides = [paired(n, number=i) for i, n in enumerate(rows)]
    dataset = AlignmentDataset(slides, batch_size=batch_size, negatives=negatives, seed=seed)
    found = [spots_of(batch) for batch in epoch(dataset, number)]
    assert sorted(sum(found, [])) == measured(slides)
    n_measured = [int(slide.measured.sum()) for slide in slides]
    if negatives == "batch":
        assert len(found) == -(-sum(n_measured) // batch_size)
        groups = [found]
    else:
        assert all(len({slide for slide, _ in batch}) == 1 for batch in found)
        groups = [
            [batch for batch in found if batch[0][0] == slide] for slide in range(len(slides)) if n_measured[slide]
        ]
        assert [len(group) for group in groups] == [-(-n // batch_size) for n in n_measured if n]
    for group in groups:
        sizes = [len(batch) for batch in group]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("negatives", ["slide", "batch"])
def test_a_batch_is_what_the_slides_say_of_its_spots(negatives):
    slides = [paired(8, number=0), paired(6, number=1)]
    dataset = AlignmentDataset(slides, batch_size=10, negatives=negatives)
    for batch in epoch(dataset):
        assert sorted(batch) == ["niche_genes", "spot_genes", "spot_image"]
        for i, (slide, spot) in enumerate(spots_of(batch)):
            expected = slides[slide].batch([spot])
            for name, values in batch.items():
                np.testing.assert_array_equal(values[i], expected[name][0])


def test_negatives_of_the_batch_are_of_all_slides():
    slides = [paired(9, number=i) for i in range(3)]
    dataset = AlignmentDataset(slides, batch_size=30, negatives="batch")
    assert all(len({slide for slide, _ in spots_of(batch)}) == 3 for batch in epoch(dataset))


@pytest.mark.parametrize("negatives", ["slide", "batch"])
def test_epochs_and_seeds_have_orders_of_their_own(negatives):
    slides = [paired(9, number=i) for i in range(3)]

    def batches(number, seed):
        return epoch(AlignmentDataset(slides, batch_size=12, negatives=negatives, seed=seed), number)

    assert equal(batches(2, 1), batches(2, 1))
    for other in (batches(3, 1), batches(2, 0)):
        assert not equal(batches(2, 1), other)
        # Other spots together, not the same batches in another order.
        together = [{frozenset(spots_of(batch)) for batch in some} for some in (batches(2, 1), other)]
        assert len(together[0] & together[1]) == 0
    if negatives == "slide":
        turns = [[spots_of(batch)[0][0] for batch in batches(number, 1)] for number in range(4)]
        assert len({tuple(turn) for turn in turns}) > 1  # slides take turns in another order, too
        assert any(turn != sorted(turn) for turn in turns)


@pytest.mark.parametrize("negatives", ["slide", "batch"])
def test_workers_make_the_same_batches_and_take_no_random_numbers(negatives):
    slides = [paired(9, number=i) for i in range(2)]

    def epochs(num_workers):
        data = AlignmentDataModule(slides, batch_size=9, negatives=negatives, num_workers=num_workers, seed=3)
        loader = data.train_dataloader()
        assert len(loader) == data.dataset.n_batches
        torch.manual_seed(0)
        found = []
        for number in range(3):
            loader.sampler.set_epoch(number)
            found.append(list(loader))
        # Dropout takes its random numbers from the same generator.
        return found, torch.rand(3).tolist()

    (alone, state), (workers, state_with_workers) = epochs(0), epochs(2)
    for number in range(3):
        assert equal(alone[number], workers[number])
        assert equal(alone[number], epoch(AlignmentDataset(slides, batch_size=9, negatives=negatives, seed=3), number))
    assert not equal(alone[0], alone[1])
    torch.manual_seed(0)
    assert state == state_with_workers == torch.rand(3).tolist()


@pytest.mark.parametrize("batch_size", [4, 1000])
def test_in_order(batch_size):
    """All spots, measured or not."""
    slides = [paired(7, number=0), paired(5, number=1)]
    found = list(in_order(slides, batch_size))
    spots = [spot for number, batch in found for spot in spots_of(batch) if number == spot[0]]
    assert spots == [(number, spot) for number, slide in enumerate(slides) for spot in range(slide.n_spots)]
    assert max(len(batch["spot_genes"]) for _, batch in found) == min(batch_size, slides[0].n_spots)
