import sys

import numpy as np
import pandas as pd
import pytest

from stimage.benchmark import batch_mixing, domain_proportions


def test_mixed_and_separate_batches():
    pytest.importorskip("scib_metrics")
    rng = np.random.default_rng(0)
    vectors, batches = rng.normal(size=(400, 5)), np.tile(["a", "b"], 200)
    mixed = batch_mixing(vectors, batches)
    apart = batch_mixing(vectors + 30 * (batches == "b")[:, None], batches)
    half = batch_mixing(vectors + 2 * (batches == "b")[:, None], batches)
    assert mixed["ilisi"] > 0.9 and mixed["kbet"] > 0.85
    assert apart["ilisi"] < 0.01 and apart["kbet"] < 0.01
    assert apart["ilisi"] < half["ilisi"] < mixed["ilisi"]
    order = rng.permutation(400)
    np.testing.assert_allclose(batch_mixing(vectors[order], batches[order])["ilisi"], mixed["ilisi"], atol=1e-4)


def lisi_of(distances, batches, perplexity):
    """Inverse Simpson index under a kernel whose entropy is that of as many neighbours as the perplexity."""
    low, high = 0.0, 1e4
    for _ in range(200):
        width = (low + high) / 2
        weights = np.exp(-(distances - distances.min()) * width)
        weights /= weights.sum()
        entropy = -(weights[weights > 0] * np.log(weights[weights > 0])).sum()
        low, high = (width, high) if entropy > np.log(perplexity) else (low, width)
    return 1 / sum(weights[batches == batch].sum() ** 2 for batch in np.unique(batches))


def test_lisi_by_its_definition():
    pytest.importorskip("scib_metrics")
    rng = np.random.default_rng(1)
    batches = rng.choice(["a", "b", "c"], 150, p=[0.5, 0.3, 0.2])
    vectors = rng.normal(size=(150, 3)) + (batches == "a")[:, None]
    values = []
    for spot in range(150):
        distances = np.linalg.norm(vectors - vectors[spot], axis=1)
        near = np.argsort(distances)[1:30]
        values.append(lisi_of(distances[near], batches[near], perplexity=10))
    found = batch_mixing(vectors, batches, n_neighbors=30)["ilisi"]
    np.testing.assert_allclose(found, (np.median(values) - 1) / 2, rtol=1e-3)


def test_vectors_that_are_all_the_same_are_refused():
    pytest.importorskip("scib_metrics")
    with pytest.raises(ValueError, match="spots whose neighbours are all equally far"):
        batch_mixing(np.eye(21), np.repeat(["a", "b", "c"], [12, 6, 3]), n_neighbors=21)


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(ImportError, match=r"pip install 'stimage\[batch\]'"):
        batch_mixing(np.eye(6), np.tile(["a", "b"], 3))


@pytest.mark.parametrize(
    ("vectors", "batches", "message"),
    [
        (np.eye(4), ["a"] * 4, "`batches` has 1 batch"),
        (np.eye(4), ["a", "b"], "`batches` has shape"),
        (np.eye(4) * np.nan, ["a", "b", "a", "b"], "`embedding` has NaN or infinite"),
    ],
)
def test_bad_embeddings(vectors, batches, message):
    with pytest.raises(ValueError, match=message):
        batch_mixing(vectors, batches)


def test_proportions_against_a_crosstab():
    rng = np.random.default_rng(0)
    domains, donors = rng.choice(["1", "2", "3"], 200), rng.choice(["x", "y", "z"], 200)
    domains[donors == "z"] = "2"
    conditions = np.where(donors == "x", "ill", "healthy")
    found = domain_proportions(domains, donors, conditions=conditions)
    expected = pd.crosstab(donors, domains, normalize="index")
    assert len(found) == 9
    for row in found.itertuples():
        assert row.proportion == expected.loc[row.donor, row.domain]
        assert row.condition == ("ill" if row.donor == "x" else "healthy")
        assert row.n_spots == (donors == row.donor).sum()


def test_spots_without_a_domain_are_left_out():
    found = domain_proportions(["a", None, "b", "b"], ["x", "x", "x", "y"])
    assert found[["proportion", "n_spots"]].to_numpy().tolist() == [[0.5, 2], [0.5, 2], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("domains", "donors", "conditions", "message"),
    [
        ([None, ""], ["x", "y"], None, "`domains` is missing for all spots"),
        (["a", "b"], ["x", None], None, "`donors` is missing for 1 spots"),
        (["a", "b"], ["x", "x"], ["ill", "well"], "`conditions` has several values for donors 'x'"),
    ],
)
def test_bad_tables(domains, donors, conditions, message):
    with pytest.raises(ValueError, match=message):
        domain_proportions(domains, donors, conditions=conditions)


def test_harmony_as_the_guide_has_it():
    """Vectors go in and come out as observations x dimensions, and slides that lie apart come together."""
    harmonypy = pytest.importorskip("harmonypy", minversion="2")
    rng = np.random.default_rng(0)
    slides, tissue = np.repeat(["a", "b"], 150), np.tile([0, 1, 2], 100)
    vectors = 4 * np.eye(5)[tissue] + rng.normal(size=(300, 5)) + 3 * (slides == "b")[:, None]
    corrected = harmonypy.run_harmony(vectors, pd.DataFrame({"slide": slides}), "slide", verbose=False).Z_corr
    assert corrected.shape == vectors.shape

    def gap(values):
        return np.linalg.norm(values[slides == "a"].mean(axis=0) - values[slides == "b"].mean(axis=0))

    assert gap(corrected) < 0.2 * gap(vectors)
    kinds = [corrected[tissue == kind].mean(axis=0) for kind in range(3)]
    assert min(np.linalg.norm(kinds[a] - kinds[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 3
