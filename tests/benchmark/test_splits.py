import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage.benchmark import block_split, leave_one_out, random_split


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_random_splits_are_partitions(n, share, seed):
    split = random_split(n, train_share=share, seed=seed)
    assert sorted([*split.train, *split.test]) == list(range(n))
    assert len(split.train) == min(max(round(share * n), 1), n - 1)
    again = random_split(n, train_share=share, seed=seed)
    np.testing.assert_array_equal(split.train, again.train)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_block_splits_are_partitions(n, share, seed):
    positions = np.random.default_rng(seed).random((n, 2))
    positions[:, 0] += np.arange(n)  # spots in at least two blocks
    split = block_split(positions, train_share=share, seed=seed)
    assert sorted([*split.train, *split.test]) == list(range(n))
    assert len(split.train)
    assert len(split.test)


def test_blocks_of_a_square_slide():
    rows, cols = (index.ravel() for index in np.indices((25, 25)))
    block = 5 * (rows // 5) + cols // 5
    chosen = set()
    for seed in range(5):
        split = block_split(np.column_stack([cols, rows]).astype(float), seed=seed)
        training = set(block[split.train])
        assert len(training) == 5
        assert not training & set(block[split.test])
        assert len(split.train) == 125
        chosen.add(frozenset(training))
    assert len(chosen) > 1


def test_leave_one_out():
    groups = np.array(["b", "a", "b", "c"])
    splits = leave_one_out(groups)
    assert [split.name for split in splits] == ["b", "a", "c"]
    for split in splits:
        assert set(groups[split.test]) == {split.name}
        assert set(groups[split.train]) == {"a", "b", "c"} - {split.name}
    with pytest.raises(ValueError, match="`donors` has 1 group"):
        leave_one_out(np.array(["a", "a"]), parameter="donors")


def test_nothing_to_split():
    with pytest.raises(ValueError, match="1 annotated spots cannot be split"):
        random_split(1)
    with pytest.raises(ValueError, match="in one block"):
        block_split(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="`train_share` must be between 0 and 1"):
        random_split(10, train_share=1.0)
