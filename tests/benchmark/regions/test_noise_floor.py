import math

import numpy as np
import pytest
from scipy import sparse

from stimage.benchmark import counting_noise_floor
from stimage.benchmark.regions._noise_floor import log_count_variance


def simulate(seed, *, n_spots=200, n_genes=500, depth=3000.0, spread=0.4, pool_share=0.5):
    """Counts of four domains with extra variation from spot to spot, and their expected counts."""
    rng = np.random.default_rng(seed)
    genes = np.exp(1.6 * rng.normal(size=n_genes)) * rng.gamma(3.0, 1 / 3, (4, n_genes))
    share = genes[rng.integers(4, size=n_spots)] * rng.gamma(2.0, 0.5, (n_spots, n_genes))
    share *= pool_share / share.sum(axis=1, keepdims=True)
    sizes = depth * np.exp(spread * rng.normal(size=n_spots))
    counts = rng.poisson(share * sizes[:, None])
    others = rng.poisson((1 - pool_share) * sizes)
    return counts, counts.sum(axis=1) + others, share * sizes[:, None]


def floor_by_simulation(means, library_size, n_draws=60, seed=0):
    """Variance over repeated draws at the true rates, averaged."""
    rng = np.random.default_rng(seed)
    draws = [np.log1p(1e4 * rng.poisson(means) / library_size[:, None]) for _ in range(n_draws)]
    return float(np.var(draws, axis=0, ddof=1).mean())


@pytest.mark.parametrize("depth", [2000, 5000])
@pytest.mark.parametrize("n_spots", [16, 200])
def test_true_floor_is_found_at_depths_of_visium(depth, n_spots):
    counts, library_size, means = simulate(0, n_spots=n_spots, depth=depth)
    expected = floor_by_simulation(means, library_size)
    assert counting_noise_floor(counts, library_size) == pytest.approx(expected, rel=0.05)


def test_many_genes_and_sparse_counts():
    counts, library_size, means = simulate(1, n_spots=60, n_genes=2000, pool_share=0.8)
    expected = floor_by_simulation(means, library_size, n_draws=30)
    found = counting_noise_floor(sparse.csr_matrix(counts), library_size)
    assert found == pytest.approx(expected, rel=0.05)
    assert found == counting_noise_floor(counts, library_size)


def test_the_true_rates_are_not_beaten():
    """The best predictor knows the rates: its error is the floor, any other's is larger."""
    counts, library_size, means = simulate(2)
    truth = np.log1p(1e4 * counts / library_size[:, None])
    best = np.mean(
        [np.log1p(1e4 * np.random.default_rng(seed).poisson(means) / library_size[:, None]) for seed in range(1, 60)],
        axis=0,
    )
    floor = counting_noise_floor(counts, library_size)
    assert ((truth - best) ** 2).mean() == pytest.approx(floor, rel=0.05)
    assert ((truth - truth.mean(axis=0)) ** 2).mean() > 1.2 * floor


def test_the_library_is_more_than_the_pool():
    counts, library_size, _ = simulate(3)
    assert counting_noise_floor(counts, 3 * library_size) < counting_noise_floor(counts, library_size)


@pytest.mark.parametrize("mean", [0.0, 0.01, 0.7, 30.0, 4000.0])
def test_variance_by_summation(mean):
    total, log_p, first, second = 0.0, -mean, 0.0, 0.0
    for count in range(int(mean + 15 * math.sqrt(mean)) + 30):
        p = math.exp(log_p)
        value = math.log1p(1e4 * count / 5000)
        total, first, second = total + p, first + p * value, second + p * value**2
        log_p += math.log(mean) - math.log(count + 1) if mean else -math.inf
    assert total == pytest.approx(1)
    assert log_count_variance(np.array([mean]), 5000)[0] == pytest.approx(second - first**2, rel=2e-3, abs=1e-9)


def test_no_counts_have_no_noise():
    assert counting_noise_floor(np.zeros((100, 400)), np.full(100, 3000)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("counts", "library_size", "message"),
    [
        (np.full((2, 2), 0.5), [9, 9], "`counts` must be whole numbers"),
        (np.full((2, 2), -1), [9, 9], "`counts` must be whole numbers"),
        (np.ones((2, 2)), [9, 0], "`library_size` must be positive"),
        (np.ones((2, 2)), [9, 1], "smaller than the counts"),
        (np.ones((2, 2)), [9], "`library_size` has 1 values for 2 spots"),
        (np.ones(2), [9, 9], "spots x genes"),
    ],
)
def test_bad_input(counts, library_size, message):
    with pytest.raises(ValueError, match=message):
        counting_noise_floor(counts, np.array(library_size))
