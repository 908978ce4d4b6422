from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from slides import within_binomial_bound

from stimage.data import select_window_genes

variances = arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 50, width=32))


def exact_probabilities(weights, n_genes):
    """Probability of each set of genes when they are drawn one after the other in proportion to what remains."""
    probability = {}
    for order in permutations(range(len(weights)), n_genes):
        chance, left = 1.0, float(sum(weights))
        for gene in order:
            chance *= weights[gene] / left
            left -= weights[gene]
        key = tuple(sorted(order))
        probability[key] = probability.get(key, 0.0) + chance
    return probability


@pytest.mark.parametrize("n_genes", [1, 2, 3])
def test_weighted_draws_follow_successive_sampling(n_genes):
    variance = np.array([0.1, 0.5, 1.0, 2.0, 4.0])
    exact = exact_probabilities(variance, n_genes)
    assert sum(exact.values()) == pytest.approx(1)
    rng, n_draws = np.random.default_rng(0), 6000
    drawn = [tuple(select_window_genes(variance, n_genes, rng=rng).tolist()) for _ in range(n_draws)]
    assert set(drawn) <= set(exact)
    assert within_binomial_bound([drawn.count(key) for key in exact], n_draws, list(exact.values()))


def test_constant_genes_fill_up_evenly():
    variance = np.array([0.0, 1.0, 0.0, 2.0, 0.0])
    rng, n_draws = np.random.default_rng(0), 1500
    drawn = [set(select_window_genes(variance, 3, rng=rng).tolist()) for _ in range(n_draws)]
    assert all({1, 3} < genes for genes in drawn)
    assert within_binomial_bound([sum(gene in genes for genes in drawn) for gene in (0, 2, 4)], n_draws, 1 / 3)


def test_random_draws_are_uniform():
    rng, n_draws = np.random.default_rng(1), 3000
    variance = np.array([0.0, 100.0, 1.0, 3.0, 0.5])
    drawn = np.concatenate([select_window_genes(variance, 2, method="random", rng=rng) for _ in range(n_draws)])
    assert within_binomial_bound(np.bincount(drawn, minlength=5), n_draws, 2 / 5)


@settings(deadline=None)
@given(variances, st.integers(1, 40))
def test_hvg_takes_the_highest_variances(variance, n_genes):
    chosen = select_window_genes(variance, n_genes, method="hvg", rng=np.random.default_rng(0))
    ranked = sorted(range(len(variance)), key=lambda gene: (-variance[gene], gene))
    assert chosen.tolist() == sorted(ranked[:n_genes])


@settings(deadline=None)
@given(variances, st.integers(1, 40), st.sampled_from(["weighted", "hvg", "random"]), st.integers(0, 99))
def test_genes_are_distinct_sorted_and_set_by_the_seed(variance, n_genes, method, seed):
    first, second = (
        select_window_genes(variance, n_genes, method=method, rng=np.random.default_rng(seed)) for _ in range(2)
    )
    assert first.tolist() == second.tolist() == sorted(set(first.tolist()))
    assert len(first) == min(n_genes, len(variance))
    assert first.min() >= 0
    assert first.max() < len(variance)


def test_unknown_method():
    with pytest.raises(ValueError, match=r"`method` is 'best'; it must be one of .*hvg"):
        select_window_genes(np.ones(3), 2, method="best", rng=np.random.default_rng(0))
