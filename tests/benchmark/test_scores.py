import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics

from stimage.benchmark import classification_scores, reconstruction_scores


def slow_macro_f1(truth, predicted):
    scores = []
    for name in set(truth) | set(predicted):
        hits = sum(t == p == name for t, p in zip(truth, predicted, strict=True))
        wrong = sum((t == name) + (p == name) for t, p in zip(truth, predicted, strict=True)) - 2 * hits
        scores.append(2 * hits / (2 * hits + wrong))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(3))
def test_classification(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice(["a", "b", "c"], 60)
    predicted = np.where(rng.random(60) < 0.5, truth, rng.choice(["b", "c", "d"], 60))
    scores = classification_scores(truth, predicted)
    assert scores["accuracy"] == pytest.approx(sum(t == p for t, p in zip(truth, predicted, strict=True)) / 60)
    assert scores["macro_f1"] == pytest.approx(slow_macro_f1(truth, predicted))
    assert scores["ari"] == pytest.approx(metrics.adjusted_rand_score(truth, predicted))
    assert scores["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(truth, predicted))


def test_reconstruction():
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 1, (30, 5))
    prediction = truth + rng.normal(size=(30, 5))
    truth[:, 2] = 1.0
    scores = reconstruction_scores(prediction, truth)
    cells = [(prediction[i, g], truth[i, g]) for i in range(30) for g in range(5)]
    assert scores["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in cells) / 150)
    assert scores["mae"] == pytest.approx(sum(abs(a - b) for a, b in cells) / 150)
    expected = [pearsonr(prediction[:, g], truth[:, g])[0] for g in (0, 1, 3, 4)]
    assert scores["pearson"] == pytest.approx(np.mean(expected))
    assert np.isnan(reconstruction_scores(np.ones((4, 2)), truth[:4, :2])["pearson"])
    with pytest.raises(ValueError, match="must be the same"):
        reconstruction_scores(truth, truth[1:])
