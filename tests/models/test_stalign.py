"""Aligners learn what image and genes have in common, and nothing but the seed decides what they learn."""

import random

import numpy as np
import pytest
import torch
from stained import aligner_of, apart, prepared, stained_tissue

from stimage.benchmark import retrieval_recall

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*num_workers")

MODALITIES = ["image", "gene", "fused"]


@pytest.fixture(scope="module")
def sections():
    """Three sections of one tissue with deep counts, about 120 spots each."""
    options = {"n_genes": 120, "n_domains": 4, "n_slides": 3, "library_size": 20_000.0}
    return apart(stained_tissue(14, 12, seed=0, **options))


GENES = [f"GENE{number:05}" for number in range(1, 101)]
LEARNING = {"genes": GENES, "training": {"max_epochs": 10, "batch_size": 64, "plan_kwargs": {"learning_rate": 5e-4}}}


@pytest.fixture(scope="module")
def learned(sections):
    """A model of two of the sections; not to be changed."""
    return aligner_of(sections[:2], **LEARNING)


@pytest.fixture(scope="module")
def learned_from_chance(sections):
    """The same on sections whose counts were given to other spots."""
    shuffled = []
    for number, section in enumerate(sections[:2]):
        shuffled.append(section.copy())
        shuffled[-1].X = section.X[np.random.default_rng(number).permutation(section.n_obs)]
    return aligner_of([prepared(section) for section in shuffled], **LEARNING)


def expression(adata):
    """log1p of counts per 10,000, of the genes that are learned from."""
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, adata.var_names.get_indexer(GENES)]


def recall(model, adata, *, shuffled=False):
    image, gene = (model.get_latent_representation(adata, modality=name, level="spot") for name in ("image", "gene"))
    if shuffled:
        gene = gene[np.random.default_rng(0).permutation(len(gene))]
    return retrieval_recall(image, gene, ks=[10]).iloc[0]


def same_weights(first, second):
    pairs = zip(first.module.state_dict().items(), second.module.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_losses_fall(learned):
    assert sorted(learned.history) == ["train_cross_loss", "train_loss", "train_niche_loss", "train_spot_loss"]
    for history in learned.history.values():
        assert history.shape == (10, 1)
        assert history.iloc[-1, 0] < history.iloc[0, 0]
    assert learned.n_tokens_seen == 10 * sum(slide.n_spots for slide in learned.paired.slides)
    assert learned.is_trained
    assert not learned.module.training


def test_the_loss_is_that_of_its_parts(learned):
    loss, *parts = (
        learned.history[f"train_{name}"].to_numpy() for name in ("loss", "spot_loss", "niche_loss", "cross_loss")
    )
    np.testing.assert_allclose(loss, 0.4 * parts[0] + 0.3 * parts[1] + 0.3 * parts[2], rtol=1e-4)


def test_genes_of_a_new_section_are_found_by_its_image(learned, sections):
    found = recall(learned, sections[2])
    assert found["recall"] > 4 * found["chance"]
    chance = recall(learned, sections[2], shuffled=True)
    error = np.sqrt(chance["chance"] * (1 - chance["chance"]) / chance["n_queries"])
    assert abs(chance["recall"] - chance["chance"]) < 4 * error


def test_nothing_is_learned_from_shuffled_pairs(learned, learned_from_chance, sections):
    """A map that knows nothing may by luck point the right way along the one or two widest directions."""
    found = recall(learned_from_chance, sections[2])
    assert found["recall"] < 2 * found["chance"]
    assert found["recall"] < 0.4 * recall(learned, sections[2])["recall"]


@pytest.mark.parametrize("method", ["regression", "retrieval"])
def test_expression_of_a_new_section(learned, learned_from_chance, sections, method):
    truth = expression(sections[2])
    mean = np.concatenate([expression(section) for section in sections[:2]]).mean(axis=0)

    def score(model):
        predicted = model.predict_expression(sections[2], method=method, n_neighbors=50)
        assert predicted.dtype == np.float32
        assert predicted.min() >= 0
        varies = predicted.std(axis=0) > 1e-4  # of single precision
        correlation = [np.corrcoef(*pair)[0, 1] for pair in zip(predicted.T[varies], truth.T[varies], strict=True)]
        return ((predicted - truth) ** 2).mean(), np.mean(correlation) if correlation else 0.0

    error, correlation = score(learned)
    of_mean = ((mean - truth) ** 2).mean()
    assert error < (0.97 if method == "regression" else 1) * of_mean
    assert correlation > 0.1
    error, correlation = score(learned_from_chance)
    assert error > 0.99 * of_mean
    assert abs(correlation) < 0.05


def test_regression_is_ridge_on_the_components_of_images(learned, sections):
    from sklearn.linear_model import Ridge

    def images(adata):
        (slide,) = learned._paired_for(adata).slides
        return np.concatenate([slide.spot_image, slide.niche_image], axis=1).astype(np.float64)

    x = np.concatenate([images(section) for section in sections[:2]])
    y = np.concatenate([expression(section) for section in sections[:2]])
    alpha = learned.head.penalty * x.var(axis=0).mean() * len(x)
    predicted = Ridge(alpha=alpha).fit(x, y).predict(images(sections[2]))
    expected = y.mean(axis=0) + learned.head.slope * (predicted - y.mean(axis=0))
    assert 0 < learned.head.slope <= 1
    np.testing.assert_allclose(learned.predict_expression(sections[2]), np.maximum(expected, 0), atol=2e-3)


def test_regression_sees_the_niche_once(sections):
    """With ``spot_context`` the components of the niche are among those of the spot."""
    models = [aligner_of(sections[:2], genes=GENES, spot_context=context) for context in (False, True)]
    first, second = (model.predict_expression(sections[2]) for model in models)
    assert models[0].head.shape == models[1].head.shape
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_retrieval_is_the_mean_of_the_nearest_spots(learned, sections):
    def vectors(adata, modality):
        return learned.get_latent_representation(adata, modality=modality, level="spot").astype(np.float64)

    keys = np.concatenate([vectors(section, "gene") for section in sections[:2]])
    y = np.concatenate([expression(section) for section in sections[:2]])
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    nearest = np.argsort(-vectors(sections[2], "image") @ keys.T, axis=1)[:, :7]
    found = learned.predict_expression(sections[2], method="retrieval", n_neighbors=7)
    np.testing.assert_allclose(found, y[nearest].mean(axis=1), atol=1e-4)
    everything = learned.predict_expression(sections[2], method="retrieval", n_neighbors=10_000)
    np.testing.assert_allclose(everything, np.tile(y.mean(axis=0), (len(everything), 1)), atol=1e-4)


def test_training_is_set_by_the_seed(stained):
    training = {"max_epochs": 3, "batch_size": 16}
    first, again = (aligner_of(stained, seed=1, training=training) for _ in range(2))
    workers = aligner_of(stained, seed=1, training={**training, "num_workers": 2})
    other = aligner_of(stained, seed=2, training=training)
    assert first.model_id == again.model_id == workers.model_id != other.model_id
    assert same_weights(first, workers)
    assert not same_weights(first, other)
    for name, history in first.history.items():
        assert history.equals(workers.history[name])
    np.testing.assert_array_equal(first.get_latent_representation(), workers.get_latent_representation())


def test_global_random_states_stay(stained):
    def states():
        return np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()

    before = states()
    aligner_of(stained, train_image_encoder=True)
    assert states() == before


def test_several_slides_by_key_or_as_a_list(stained_pair, stained_parts):
    together, as_list = aligner_of(stained_pair), aligner_of(stained_parts)
    assert together.genes.tolist() == as_list.genes.tolist()
    assert same_weights(together, as_list)
    for modality in MODALITIES:
        found = together.get_latent_representation(modality=modality)
        rows = [found[stained_pair.obs["slide"] == name] for name in stained_pair.obs["slide"].cat.categories]
        expected = as_list.get_latent_representation(modality=modality)
        np.testing.assert_array_equal(np.concatenate(rows), expected)
        np.testing.assert_array_equal(together.get_latent_representation(stained_pair, modality=modality), found)
    # The other slide says nothing of a slide, once the model is there.
    for part, row in zip(stained_parts, rows, strict=True):
        np.testing.assert_allclose(together.get_latent_representation(part), row, atol=1e-5)


def test_rows_follow_the_anndata(aligner, stained):
    order = np.random.default_rng(0).permutation(stained.n_obs)
    for modality in MODALITIES:
        found = aligner.get_latent_representation(stained[order].copy(), modality=modality)
        np.testing.assert_allclose(found, aligner.get_latent_representation(modality=modality)[order], atol=1e-4)
    np.testing.assert_allclose(
        aligner.predict_expression(stained[order]), aligner.predict_expression(stained)[order], atol=1e-3
    )


def test_genes_in_another_order(aligner, stained):
    shuffled = stained[:, np.random.default_rng(0).permutation(stained.n_vars)].copy()
    np.testing.assert_allclose(
        aligner.get_latent_representation(shuffled), aligner.get_latent_representation(), atol=1e-5
    )
