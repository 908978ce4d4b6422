from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage.benchmark import retrieval_recall

SMALL = st.lists(st.integers(-2, 2), min_size=2, max_size=2)


def exact_similarity(query, key):
    """Something that orders keys of one query as the cosine does, without rounding."""
    product, length = int(np.dot(query, key)), int(np.dot(key, key))
    return Fraction((1 if product >= 0 else -1) * product**2, length) if length else Fraction(0)


def recall_in_all_orders(queries, keys, groups, k):
    """Mean over all orders in which tied keys may come."""
    hits = Fraction(0)
    for i, query in enumerate(queries):
        candidates = [j for j in range(len(keys)) if groups[j] == groups[i]]
        orders = list(permutations(candidates))
        for order in orders:
            nearest = sorted(order, key=lambda j: -exact_similarity(query, keys[j]))[:k]
            hits += Fraction(i in nearest, len(orders))
    return float(hits / len(queries))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 5), k=st.integers(1, 6))
def test_recall_is_the_mean_over_the_orders_of_ties(data, n, k):
    queries = np.array(data.draw(st.lists(SMALL, min_size=n, max_size=n)))
    keys = np.array(data.draw(st.lists(SMALL, min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.sampled_from("ab"), min_size=n, max_size=n)))
    (row,) = retrieval_recall(queries, keys, ks=[k], groups=groups).to_dict("records")
    assert row["recall"] == pytest.approx(recall_in_all_orders(queries, keys, groups, k))
    assert row["chance"] == pytest.approx(np.mean([min(1, k / (groups == group).sum()) for group in groups]))
    assert row["n_queries"] == n
    assert row["k"] == k


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_recall_of_a_loop_and_its_properties(seed, sizes):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    queries = rng.normal(size=(len(groups), 3))
    keys = queries + rng.normal(size=queries.shape)
    found = retrieval_recall(queries, keys, ks=[1, 3, 20], groups=groups)
    hits = []
    for i, query in enumerate(queries):
        cosine = {
            j: query @ keys[j] / np.linalg.norm(query) / np.linalg.norm(keys[j])
            for j in np.flatnonzero(groups == groups[i])
        }
        place = sorted(cosine, key=lambda j: -cosine[j]).index(i)
        hits.append([place < k for k in (1, 3, 20)])
    np.testing.assert_allclose(found["recall"], np.mean(hits, axis=0))
    assert found["recall"].is_monotonic_increasing
    assert found["recall"].iloc[-1] == found["chance"].iloc[-1] == 1
    order = rng.permutation(len(groups))
    scaled = keys[order] * rng.uniform(0.1, 10, (len(groups), 1))
    again = retrieval_recall(7 * queries[order], scaled, ks=[1, 3, 20], groups=groups[order])
    np.testing.assert_allclose(again["recall"], found["recall"])


def test_more_queries_than_are_compared_together():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(1100, 6))
    keys = queries + rng.normal(size=(1100, 6))
    similarity = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (keys / np.linalg.norm(keys, axis=1)[:, None]).T
    places = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    found = retrieval_recall(queries, keys)
    assert found["k"].tolist() == [1, 5, 10]
    np.testing.assert_allclose(found["recall"], [(places < k).mean() for k in (1, 5, 10)])


def test_identical_vectors_are_all_found():
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    assert (retrieval_recall(vectors, vectors)["recall"] == 1).all()
    assert (retrieval_recall(vectors, -vectors)["recall"] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-200, 1e200])
def test_vectors_that_are_all_the_same_score_chance(value):
    groups = np.repeat(["a", "b", "c"], [3, 40, 357])
    vectors = np.full((400, 37), value)
    found = retrieval_recall(np.random.default_rng(0).normal(size=(400, 37)), vectors, groups=groups)
    np.testing.assert_allclose(found["recall"], found["chance"], rtol=1e-12)
    np.testing.assert_allclose(found["chance"], [3 / 400, (3 + 5 + 5) / 400, (3 + 10 + 10) / 400], rtol=1e-12)


@pytest.mark.parametrize("case", ["random", "shuffled"])
def test_vectors_that_know_nothing_score_about_chance(case):
    rng = np.random.default_rng(1)
    groups = np.repeat(["a", "b"], [500, 1500])
    queries = rng.normal(size=(2000, 16))
    keys = rng.normal(size=(2000, 16)) if case == "random" else queries[rng.permutation(2000)]
    found = retrieval_recall(queries, keys, ks=[1, 10, 100], groups=groups)
    error = np.sqrt(found["chance"] * (1 - found["chance"]) / 2000)
    assert (np.abs(found["recall"] - found["chance"]) < 4 * error).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": np.ones(3)}, ValueError, "`queries` has shape"),
        ({"queries": np.ones((0, 2)), "keys": np.ones((0, 2))}, ValueError, "`queries` has no rows"),
        ({"keys": np.ones((2, 2))}, ValueError, "`keys` has shape"),
        ({"keys": np.ones((3, 5))}, ValueError, "`keys` has 5 dimensions, `queries` 2"),
        ({"keys": np.full((3, 2), np.nan)}, ValueError, "`keys` has NaN or infinite values for 3 spots"),
        ({"ks": []}, ValueError, "`ks` is empty"),
        ({"ks": [0]}, ValueError, "`ks` must be at least 1"),
        ({"ks": [1.5]}, TypeError, "`ks` must be an integer"),
        ({"groups": ["a"]}, ValueError, "`groups` has shape"),
        ({"groups": ["a", None, "b"]}, ValueError, "`groups` is missing for 1 spots"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        retrieval_recall(**{"queries": np.ones((3, 2)), "keys": np.ones((3, 2)), **change})
