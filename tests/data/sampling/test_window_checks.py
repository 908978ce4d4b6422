import warnings
from contextlib import contextmanager
from dataclasses import replace

import lightning
import numpy as np
import pytest
from anndata import read_h5ad
from helpers import in_groups
from slides import random_slide

from stimage import data, datasets, models, pp, tl
from stimage.data import WindowSpec, draw_hidden_sites, window_origins
from stimage.data.sampling._window_checks import window_concerns


def full_slide(n_rows, n_cols, name="slide"):
    return random_slide(n_rows, n_cols, holes=0.0, empty=0.0, name=name)


@pytest.mark.parametrize(
    ("shape", "n_places"), [((8, 8), 1), ((9, 10), 6), ((6, 22), 15), ((11, 11), 16), ((8, 30), 23)]
)
def test_slides_with_few_places_are_counted(shape, n_places):
    slide = full_slide(*shape, name="small")
    assert len(window_origins(slide, 8, 0.25)) == n_places
    concerns = window_concerns([slide, full_slide(20, 20)], WindowSpec(window=8))
    if n_places >= 16:
        assert concerns == []
        return
    assert len(concerns) == 1
    assert concerns[0].startswith("1 of 2 slides has fewer than 16 places for windows of 8 x 8 sites ")
    assert f"('small ({shape[0]} x {shape[1]} sites): {n_places}')" in concerns[0]
    # The advice holds, and nothing larger would do.
    advised = next(size for size in range(8, 1, -1) if f"`window={size}` or less" in concerns[0])
    assert len(window_origins(slide, advised, 0.25)) >= 16
    assert all(len(window_origins(slide, size, 0.25)) < 16 for size in range(advised + 1, 9))


def test_slides_without_enough_data_in_any_window():
    slide = full_slide(24, 24, name="scattered")
    kept = np.zeros(slide.shape, dtype=bool)
    kept[::6, ::6] = True
    scattered = slide.restrict(kept)
    # Windows of 8 x 8 hold four such sites at most.
    spec = WindowSpec(window=8, min_occupancy=0.25)
    found = [text for text in window_concerns([scattered, slide], spec) if "fullest" in text]
    assert len(found) == 1
    assert found[0].startswith("1 of 2 slides has no window of 8 x 8 sites with data in 25% of them")
    assert "'scattered: 6%'" in found[0]
    assert window_concerns([scattered], replace(spec, min_occupancy=4 / 64)) == window_concerns(
        [scattered], replace(spec, min_occupancy=0.0)
    )
    assert not any("fullest" in text for text in window_concerns([scattered], replace(spec, min_occupancy=4 / 64)))


def test_slides_that_are_never_trained_on():
    slide = full_slide(20, 20, name="lonely")
    one = slide.restrict(np.arange(400).reshape(20, 20) == 5)
    concerns = window_concerns([one, full_slide(20, 20)], WindowSpec(window=8))
    assert concerns == [
        "1 of 2 slides has no window of 8 x 8 sites with data in two of them and is never trained on ('lonely')."
    ]


@pytest.mark.parametrize("masking", ["region", "mixed"])
def test_regions_that_cannot_be_hidden(masking):
    slide = full_slide(24, 24)
    assert window_concerns([slide], WindowSpec(window=8, masking=masking)) == []
    # Tissue in one of sixteen sites: small rectangles mostly miss it.
    kept = np.zeros(slide.shape, dtype=bool)
    kept[::4, ::4] = True
    spec = WindowSpec(window=8, masking=masking, mask_ratio=0.1, min_occupancy=0.0)
    found = window_concerns([slide.restrict(kept)], spec)
    assert len(found) == 1
    assert found[0].startswith(f"`masking='{masking}'` hides single sites instead of a region in ")
    share = float(found[0].split(" in ")[1].split("%")[0]) / 100
    # The share, from the rule that a rectangle of one to a few sites is drawn anywhere in the window.
    rng, missed = np.random.default_rng(1), 0
    ratio = 0.05 if masking == "mixed" else 0.1
    for _ in range(2000):
        top, left = rng.integers(17, size=2)
        observed = kept[top : top + 8, left : left + 8]
        height = min(max(round(np.sqrt(ratio * 64 * np.exp(rng.uniform(-0.7, 0.7)))), 1), 8)
        width = min(max(round(ratio * 64 / height), 1), 8)
        row, column = rng.integers(9 - height), rng.integers(9 - width)
        missed += not observed[row : row + height, column : column + width].any()
    assert share == pytest.approx(missed / 2000, abs=0.12)
    assert window_concerns([slide.restrict(kept)], replace(spec, masking="site")) == []


def test_a_region_that_would_hold_nothing_or_everything_becomes_single_sites():
    observed = np.zeros((8, 8), dtype=bool)
    observed[0, :2] = True
    for seed in range(50):
        hidden = draw_hidden_sites(observed, 0.3, masking="region", rng=np.random.default_rng(seed))
        assert hidden.sum() == 1
        assert observed[hidden].all()


def test_training_says_so_once_before_it_starts():
    adata = datasets.simulate_tissue(n_rows=9, n_cols=9, n_genes=40, seed=0)
    pp.compact_grid(adata)
    options = {"window": 8, "n_pool_genes": 30, "n_genes": 10}
    model = models.STImage(adata, **options)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.warns(UserWarning, match="1 of 1 slides has fewer than 16 places for windows of 8 x 8 sites") as caught:
        # Training itself fails: the warning was there first.
        with pytest.raises(RuntimeError, match="stop"):
            model.train(1, enable_progress_bar=False, accelerator="cpu", callbacks=[Stops()])
    assert sum("fewer than" in str(warning.message) for warning in caught) == 1
    assert all(before[name].equal(tensor) for name, tensor in model.module.state_dict().items())
    larger = datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=40, seed=0)
    pp.compact_grid(larger)
    with no_concern():
        training = {"max_epochs": 1, "windows_per_epoch": 4, "batch_size": 2, "enable_progress_bar": False}
        tl.pretrain(larger, **in_groups(tl.pretrain, **training, **options))
    # Units without windows have no places.
    with no_concern():
        spots = models.STImage(adata, unit="spot", **options)
        spots.train(1, windows_per_epoch=4, batch_size=2, enable_progress_bar=False)


@contextmanager
def no_concern():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert not [warning for warning in caught if "windows of" in str(warning.message)]


class Stops(lightning.Callback):
    def on_train_start(self, trainer, plan):
        raise RuntimeError("stop")


@pytest.mark.parametrize("name", ["heart_dev_1_CN73_E1", "heart_dev_2_CN73_E2"])
def test_a_real_slide_that_is_one_window(shared_data, name):
    adata = read_h5ad(shared_data / name / f"{name}.h5ad")
    pp.compact_grid(adata)
    slide = data.Corpus.from_anndata(adata, genes=adata.var_names[:10])[0]
    (concern,) = window_concerns([slide], WindowSpec(window=16))
    assert "1 of 1 slides has fewer than 16 places" in concern
