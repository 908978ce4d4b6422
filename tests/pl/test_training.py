import numpy as np
import pandas as pd
import pytest

import stimage as sti


def history(**losses):
    return {name: pd.DataFrame({name: values}) for name, values in losses.items()}


TRAIN, VALIDATION = np.exp(-np.arange(20) / 5), 0.2 + (np.arange(20) - 12) ** 2 / 200


def test_image(model, assert_looks_like):
    model.history = history(train_loss=TRAIN, validation_loss=VALIDATION)
    assert_looks_like(sti.pl.training(model), "training")


@pytest.mark.parametrize("suffix", ["loss", "loss_epoch"])
def test_curves_are_the_history(model, suffix):
    model.history = history(**{f"train_{suffix}": TRAIN, f"validation_{suffix}": VALIDATION})
    (ax,) = sti.pl.training(model).axes
    training, validation, best = ax.get_lines()
    for line, loss in ((training, TRAIN), (validation, VALIDATION)):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
        np.testing.assert_array_equal(line.get_ydata(), loss)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    assert best.get_xdata()[0] == 13


def test_after_training(model, tmp_path):
    model.train(max_epochs=2, windows_per_epoch=4, batch_size=2, enable_progress_bar=False, accelerator="cpu")
    (ax,) = sti.pl.training(model, save=tmp_path / "t.pdf").axes
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])
    np.testing.assert_allclose(line.get_ydata(), model.history["train_loss"].iloc[:, 0])
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_errors(model):
    with pytest.raises(TypeError, match="STImage"):
        sti.pl.training(3)
    with pytest.raises(ValueError, match=r"model.train\(\)"):
        sti.pl.training(model)
