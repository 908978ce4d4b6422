"""The regression of expression is shrunk by donors that neither it nor its aligner has seen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from stained import QUIET, TINY, aligner_of, apart, prepared, stained_tissue, tiny_encoder

from stimage.models import STAlign
from stimage.models.alignment._expression_head import PENALTIES
from stimage.models.alignment._head_penalty import MOST_FOLDS, folds_of, unseen_penalty
from stimage.models.alignment._training import train_aligner

GENES = [f"GENE{number:05}" for number in range(1, 41)]
TRAINER = {"max_epochs": 1, "devices": 1, **QUIET}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50)), min_size=1, max_size=12))
def test_donors_are_left_out_together_and_everybody_once(slides):
    donors, measured = [donor for donor, _ in slides], [n_spots for _, n_spots in slides]
    seen = [number for number, n_spots in enumerate(measured) if n_spots]
    folds = folds_of(donors, measured)
    assert len(folds) <= MOST_FOLDS
    if len(seen) < 2:
        assert not folds
        return
    assert sorted(np.concatenate(folds)) == seen
    if len({donors[number] for number in seen}) > 1:
        for fold in folds:
            inside = {donors[number] for number in fold}
            assert not inside & {donors[number] for number in set(seen) - set(fold)}


@pytest.fixture(scope="module")
def sections():
    """Four sections of three donors."""
    parts = apart(stained_tissue(9, 8, n_slides=4, n_genes=60))
    for part, donor in zip(parts, ["ann", "bob", "bob", "cleo"], strict=True):
        part.obs["donor"] = donor
        STAlign.setup_anndata(part, donor_key="donor")
    return parts


def model_of(sections):
    return STAlign(sections, image_encoder=tiny_encoder(), genes=GENES, config=TINY)


def trained(model, module, slides):
    """Train a module as the model's own is trained."""
    options = {"optimizer": model.optimizer, "batch_size": 32, "negatives": "slide", "num_workers": 0}
    return train_aligner(module, slides, **options, trainer=TRAINER, seed=model.seed)


def refitted(sections):
    """The penalty, and the weights of the aligners that were trained for it by the slides that they saw."""
    weights = {}

    model = model_of(sections)

    def train(module, slides):
        fitted = trained(model, module, slides)
        names = tuple(slide.slide.name for slide in slides)
        weights[names] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return fitted

    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    penalty = unseen_penalty(model.paired.slides, model._started, train, niches=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    return penalty, weights


def test_what_is_left_out_changes_nothing(sections):
    _, weights = refitted(sections)
    names = [slide.slide.name for slide in model_of(sections).paired.slides]
    assert {frozenset(names) - frozenset(seen) for seen in weights} == {
        frozenset(names[:1]),
        frozenset(names[1:3]),
        frozenset(names[3:]),
    }
    other = [part.copy() for part in sections]
    other[0].X = other[0].X[np.random.default_rng(0).permutation(other[0].n_obs)]
    prepared(other[0])
    _, changed = refitted(other)
    for seen, tensors in weights.items():
        same = all(torch.equal(changed[seen][name], tensor) for name, tensor in tensors.items())
        assert same is (names[0] not in seen)


def test_the_penalty_predicts_donors_best_that_were_not_seen(sections):
    """Against ridge regressions of scikit-learn on the vectors of aligners that are trained here."""
    penalty, _ = refitted(sections)
    errors = np.zeros(len(PENALTIES))
    for left_out in ([0], [1, 2], [3]):
        kept = [number for number in range(4) if number not in left_out]
        model = model_of(sections)
        slides = [model.paired.slides[number] for number in kept]
        model.module = model._started(slides)
        trained(model, model.module, slides)
        x, y = ({}, {})
        for number, section in enumerate(sections):
            x[number] = model.get_latent_representation(section, modality="image", level="both").astype(np.float64)
            counts = section.X.toarray()
            scaled = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
            y[number] = scaled[:, section.var_names.get_indexer(GENES)]
        train_x, train_y = (np.concatenate([part[number] for number in kept]) for part in (x, y))
        for position, strength in enumerate(PENALTIES):
            alpha = strength * train_x.var(axis=0).mean() * len(train_x)
            ridge = Ridge(alpha=alpha).fit(train_x, train_y)
            errors[position] += sum(((ridge.predict(x[number]) - y[number]) ** 2).sum() for number in left_out)
    assert penalty == pytest.approx(PENALTIES[np.argmin(errors)])


def test_training_uses_it(sections):
    model = aligner_of(sections, genes=GENES, training={"max_epochs": 1})
    assert model.head.penalty == pytest.approx(refitted(sections)[0])


def test_one_slide_has_nobody_to_leave_out(sections):
    model = model_of(sections[:1])
    assert unseen_penalty(model.paired.slides, pytest.fail, pytest.fail, niches=True) is None


def test_pixels_are_not_trained_on_again(sections):
    model = STAlign(sections, image_encoder=tiny_encoder(), genes=GENES, config=TINY, train_image_encoder=True)
    assert unseen_penalty(model.paired.slides, pytest.fail, pytest.fail, niches=True) is None
