"""Every metric against its public definition, written slowly, or against another library."""

import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

from stimage.benchmark import (
    METRICS,
    chaos,
    completeness,
    embedding_silhouette,
    homogeneity,
    marker_geary,
    marker_moran,
    normalized_mutual_information,
    pas,
    spatial_coherence,
    spatial_silhouette,
)


@pytest.fixture(params=[0, 1, 2])
def slide(request):
    """Positions without ties, domains in space with a few spots astray."""
    rng = np.random.default_rng(request.param)
    positions = rng.random((150, 2)) * [30, 10]
    found = np.digitize(positions[:, 0], [8, 20]).astype(int)
    astray = rng.choice(150, 25, replace=False)
    found[astray] = rng.integers(0, 4, 25)
    return positions, found


def entropy(labels):
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return -(share * np.log(share)).sum()


def test_agreement_by_entropies(slide):
    _, found = slide
    truth = np.random.default_rng(5).permutation(found)
    truth[:90] = found[:90]
    joint = entropy([f"{a} {b}" for a, b in zip(truth, found, strict=True)])
    mutual = entropy(truth) + entropy(found) - joint
    assert np.isclose(normalized_mutual_information(truth, found), 2 * mutual / (entropy(truth) + entropy(found)))
    assert np.isclose(homogeneity(truth, found), mutual / entropy(truth))
    assert np.isclose(completeness(truth, found), mutual / entropy(found))


def test_pas(slide):
    positions, found = slide
    distances = cdist(positions, positions)
    np.fill_diagonal(distances, np.inf)
    abnormal = [np.sum(found[np.argsort(row)[:10]] != own) > 5 for row, own in zip(distances, found, strict=True)]
    assert 0.05 < np.mean(abnormal) < 0.5
    assert pas(found, positions) == np.mean(abnormal)


def test_pas_of_a_lattice_is_the_same_in_any_order_and_direction():
    positions = np.stack(np.indices((12, 11)), axis=-1).reshape(-1, 2).astype(float)
    rng = np.random.default_rng(0)
    found = (positions[:, 0] > positions[:, 1]).astype(int)
    found[rng.choice(len(found), 20)] = 2
    expected = pas(found, positions)
    assert expected > 0
    for _ in range(5):
        order = rng.permutation(len(found))
        assert pas(found[order], positions[order]) == expected
    assert pas(found, positions[:, ::-1] * [1, -1]) == expected


def test_pas_on_a_lattice_is_the_expectation_over_ties():
    # Eight neighbours are nearer, two of the next four are drawn: the spot in the middle differs from 5 of 8 and 1 of 4.
    positions = np.stack(np.indices((5, 5)), axis=-1).reshape(-1, 2).astype(float) - 2
    square = (positions**2).sum(axis=1)
    found = np.zeros(25, dtype=int)
    found[np.flatnonzero((square > 0) & (square <= 2))[:5]] = 1
    ring = np.flatnonzero(square == 4)

    def middle(labels):
        """Whether the middle counts as abnormal: from the score with only its label changed to one of its own."""
        distances = cdist(positions, positions)
        np.fill_diagonal(distances, np.inf)
        count = np.sum(labels[np.flatnonzero(square == 0)] != labels[(square > 0) & (square <= 2)])
        return count + 2 * np.mean(labels[ring] != labels[square == 0]) > 5

    for n_others in range(5):
        labels = found.copy()
        labels[ring[:n_others]] = 1
        everywhere = cdist(positions, positions)
        np.fill_diagonal(everywhere, np.inf)
        counts = []
        for spot, row in enumerate(everywhere):
            tenth = np.sort(row)[9]
            nearer, tied = row < tenth - 1e-9, np.abs(row - tenth) < 1e-9
            differs = labels != labels[spot]
            counts.append((nearer & differs).sum() + (10 - nearer.sum()) * differs[tied].mean())
        assert pas(labels, positions) == np.mean(np.array(counts) > 5 + 1e-9)
        assert (counts[12] > 5) == middle(labels)


def test_chaos(slide):
    positions, found = slide
    scaled = (positions - positions.mean(axis=0)) / positions.std(axis=0)
    total = 0.0
    for domain in np.unique(found):
        members = scaled[found == domain]
        if len(members) > 2:
            distances = cdist(members, members)
            np.fill_diagonal(distances, np.inf)
            total += distances.min(axis=1).sum()
    np.testing.assert_allclose(chaos(found, positions), total / len(found))


def test_chaos_leaves_out_tiny_domains_and_counts_doublets_as_near():
    positions = np.array([[0.0, 0], [0, 0], [0, 0], [5, 5], [6, 6]])
    assert chaos([0, 0, 0, 1, 1], positions) == 0


def test_silhouettes(slide):
    positions, found = slide
    vectors = np.random.default_rng(1).normal(size=(150, 5)) + found[:, None]
    reference = silhouette_score(cdist(positions, positions), found, metric="precomputed")
    np.testing.assert_allclose(spatial_silhouette(found, positions), reference, rtol=1e-6)
    distances = cdist(vectors, vectors)
    widths = []
    for spot in range(150):
        own = found == found[spot]
        a = distances[spot][own].sum() / (own.sum() - 1)
        b = min(distances[spot][found == other].mean() for other in np.unique(found) if other != found[spot])
        widths.append((b - a) / max(a, b))
    np.testing.assert_allclose(embedding_silhouette(found, vectors), np.mean(widths), rtol=1e-6)


@pytest.fixture
def expressed(slide):
    """Log expression in which ten genes follow the domains."""
    positions, found = slide
    rng = np.random.default_rng(2)
    rates = rng.gamma(1, 2, 40) * np.exp(np.where(np.arange(40) < 10, rng.normal(size=(4, 40)), 0))[found]
    counts = rng.poisson(rates)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), found, positions


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_markers_as_sdmbench_scores_them(expressed, form):
    expression, found, positions = expressed
    adata = AnnData(expression, obs=pd.DataFrame({"domain": pd.Categorical(found.astype(str))}))
    adata.obsm["spatial"] = positions
    adata.obs_names = adata.obs_names.astype(str)
    sizes = adata.obs["domain"].value_counts()
    adata = adata[adata.obs["domain"].isin(sizes.index[sizes > 3])].copy()
    sc.tl.rank_genes_groups(adata, "domain")
    genes = np.unique([name for i in range(5) for name in adata.uns["rank_genes_groups"]["names"][i]])
    sq.gr.spatial_neighbors(adata)
    sq.gr.spatial_autocorr(adata, mode="moran", genes=genes, n_perms=None, show_progress_bar=False)
    sq.gr.spatial_autocorr(adata, mode="geary", genes=genes, n_perms=None, show_progress_bar=False)
    moran = marker_moran(form(expression), found, positions)
    geary = marker_geary(form(expression), found, positions)
    np.testing.assert_allclose(moran, np.median(adata.uns["moranI"]["I"]), rtol=1e-5)
    np.testing.assert_allclose(geary, np.median(adata.uns["gearyC"]["C"]), rtol=1e-5)


def test_moran_and_geary_by_their_formulas(expressed):
    """With a single gene, which is then the top gene of every domain."""
    expression, found, positions = expressed
    gene = expression[:, :1]
    kept = np.isin(found, [domain for domain in np.unique(found) if (found == domain).sum() > 3])
    values, where = gene[kept, 0], positions[kept]
    distances = cdist(where, where)
    np.fill_diagonal(distances, np.inf)
    weights = np.zeros_like(distances)
    for row, nearest in enumerate(np.argsort(distances, axis=1)[:, :6]):
        weights[row, nearest] = 1 / 6
    centred = values - values.mean()
    moran = len(values) / weights.sum() * (centred @ weights @ centred) / (centred @ centred)
    squares = (values[:, None] - values[None, :]) ** 2
    geary = (len(values) - 1) / (2 * weights.sum()) * (weights * squares).sum() / (centred @ centred)
    np.testing.assert_allclose(marker_moran(gene, found, positions), moran, rtol=1e-5)
    np.testing.assert_allclose(marker_geary(gene, found, positions), geary, rtol=1e-5)


def entropy_of_edges(graph, labels):
    counts = {}
    for a, b in graph.edges():
        pair = tuple(sorted((labels[a], labels[b])))
        counts[pair] = counts.get(pair, 0) + 1
    n = graph.number_of_edges()
    return -sum(count / n * math.log(count / n) for count in counts.values())


def test_spatial_coherence_of_paste(slide):
    positions, found = slide
    distances = cdist(positions, positions)
    np.fill_diagonal(distances, np.inf)
    graph = nx.Graph()
    for spot, nearest in enumerate(np.argsort(distances, axis=1)[:, :4]):
        graph.add_edges_from((spot, int(other)) for other in nearest)
    rng = np.random.default_rng(0)
    permuted = [entropy_of_edges(graph, rng.permutation(found)) for _ in range(200)]
    expected = (entropy_of_edges(graph, found) - np.mean(permuted)) / np.std(permuted)
    np.testing.assert_allclose(spatial_coherence(found, positions, n_permutations=200), expected)
    bands = np.digitize(positions[:, 0], [8, 20])
    assert spatial_coherence(bands, positions) < -6 < -4 < spatial_coherence(rng.permutation(bands), positions)


def test_what_is_not_defined():
    positions = np.random.default_rng(0).random((12, 2))
    one = np.zeros(12, dtype=int)
    assert pas(one, positions) == 0
    assert math.isnan(pas([0], positions[:1]))
    assert math.isnan(spatial_silhouette(one, positions))
    assert math.isnan(spatial_coherence(one, positions))
    assert math.isnan(marker_moran(positions, one, positions))
    assert math.isnan(marker_geary(positions, np.arange(12), positions))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 60), st.integers(1, 5))
def test_names_order_scale_and_place_do_not_matter(seed, n, n_domains):
    rng = np.random.default_rng(seed)
    positions, found = rng.random((n, 2)), rng.integers(0, n_domains, n)
    order, names = rng.permutation(n), rng.permutation([f"domain {i}" for i in range(n_domains)])
    moved = positions[order] * 17 + [100, -3]
    for metric in (pas, chaos, spatial_silhouette):
        first, second = metric(found, positions), metric(names[found[order]], moved)
        np.testing.assert_allclose(first, second, atol=1e-7)


def test_memory_is_not_that_of_all_pairs():
    import tracemalloc

    rng = np.random.default_rng(0)
    positions = rng.random((20_000, 2))
    found = (positions[:, 0] * 5).astype(int)
    tracemalloc.start()
    for metric in (pas, chaos):
        metric(found, positions)
    spatial_coherence(found, positions, n_permutations=3)
    marker_moran(rng.random((20_000, 4)), found, positions)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.02 * 8 * len(found) ** 2  # 64 MB of 3.2 GB


def test_better_is_where_domains_are_smooth(expressed):
    expression, found, positions = expressed
    bands = np.digitize(positions[:, 0], [8, 20])
    noise = np.random.default_rng(3).permutation(bands)
    arrays = {"positions": positions, "expression": expression, "embedding": positions, "truth": bands}
    for metric in METRICS.values():
        smooth, rough = (
            metric.function(**{name: {**arrays, "found": labels}[name] for name in metric.needs})
            for labels in (bands, noise)
        )
        assert (smooth > rough) == metric.higher_is_better, metric.name
    assert [a.name != b.name for a, b in pairwise(METRICS.values())]
