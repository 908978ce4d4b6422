from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_corpus, tiny_model, train

from stimage.data import Corpus, WindowDataset


def broken_corpus():
    """Slides of which one has infinite values."""
    corpus = tiny_corpus()
    expression = corpus[2].expression.copy()
    expression.data[::50] = np.inf
    return Corpus([*corpus.slides[:2], replace(corpus[2], expression=expression), *corpus.slides[3:]], corpus.genes)


@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")
@pytest.mark.parametrize("in_folder", [True, False])
def test_infinite_value_in_a_slide(tmp_path, monkeypatch, in_folder):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = tiny_model(corpus=broken_corpus(), n_genes=20)
    options = {"checkpoint_dir": tmp_path / "checkpoints"} if in_folder else {}
    with pytest.raises(FloatingPointError, match=r"The loss is (nan|inf) at step \d+ \(epoch 0, windows \d+") as caught:
        train(model, windows_per_epoch=50, max_epochs=4, **options)
    message = str(caught.value)
    numbers = [int(number) for number in message.partition("windows ")[2].partition(")")[0].split(", ")]
    step = int(message.partition("at step ")[2].partition(" ")[0])
    assert numbers == list(range(5 * (step - 1), 5 * step))
    path = Path(message.partition("saved in '")[2].partition("'")[0])
    assert path.parent == tmp_path / "checkpoints" if in_folder else path.parents[1] == tmp_path / "temporary"
    saved = load_file(path)
    dataset = WindowDataset(list(model.corpus), model.spec, seed=0)
    for position, number in enumerate(numbers):
        np.testing.assert_array_equal(saved["expression"][position], dataset[number].expression)
    assert not saved["expression"].isfinite().all()
    assert not list(tmp_path.rglob("epoch-*"))
    assert not model.is_trained


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_gradient_that_breaks_the_weights(tmp_path):
    """The loss of the only step of an epoch is finite, its gradient and the weights after it are not."""
    corpus = tiny_corpus()
    loud = [replace(slide, expression=slide.expression * np.float32(1e6)) for slide in corpus]
    model = tiny_model(corpus=Corpus(loud, corpus.genes))
    model.corpus = Corpus(loud, corpus.genes)  # as it is, not on the scale that models work on
    model.module.config = replace(model.module.config, relative_error=False)
    with torch.no_grad():
        # Predictions are zero; how they would change with the projection is more than a float can say.
        model.module.genes.output_projection.weight.zero_()
        model.module.genes.output_projection.bias.zero_()
        model.module.genes.output_embedding.fill_(3e38)
    with pytest.raises(FloatingPointError, match=r"After step 1 \(epoch 0\) weights are not finite.*`learning_rate`"):
        train(model, windows_per_epoch=5, checkpoint_dir=tmp_path)
    assert not list(tmp_path.glob("epoch-*"))


def test_weights_that_are_broken_from_the_start(tmp_path):
    broken = tiny_model()
    with torch.no_grad():
        broken.module.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        train(broken, checkpoint_dir=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
