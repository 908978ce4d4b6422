"""Checkpoints of a training and exact resumption."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from tiny_training import tiny_corpus, tiny_model, train

from stimage.data import WindowDataModule
from stimage.models.embedding._units import build_module
from stimage.train import FiniteLoss, LossHistory, MaskedTrainingPlan, TrainingCheckpoints

TESTS = Path(__file__).parents[1]


class PowerCutError(Exception):
    """Ends a training at once."""


class PowerCut(lightning.Callback):
    """Ends a training in the middle of an epoch, or right after one."""

    def __init__(self, epoch: int, *, at: str = "batch") -> None:
        self.epoch = epoch
        self.at = at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.at == "batch" and (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise PowerCutError

    def on_train_epoch_start(self, trainer, pl_module):
        if self.at == "start" and trainer.current_epoch == self.epoch:
            raise PowerCutError


def with_dropout(**options):
    """A model whose training draws random numbers."""
    model = tiny_model(**options)
    model.autoencoder = replace(model.autoencoder, dropout=0.2)
    torch.manual_seed(0)
    model.module = build_module(len(model.genes), model.autoencoder, model.unit)
    return model


def cut_short(directory, epoch, model=None, **options):
    cut = PowerCut(epoch, at=options.pop("at", "batch"))
    with pytest.raises(PowerCutError):
        train(model or with_dropout(), checkpoint_dir=directory, callbacks=[cut], **options)


def same(first, second):
    assert first.model_id == second.model_id
    assert sorted(first.history) == sorted(second.history)
    assert all(first.history[name].equals(second.history[name]) for name in first.history)
    assert first.n_tokens_seen == second.n_tokens_seen


@pytest.fixture(scope="module")
def whole():
    """Four epochs without an interruption."""
    return train(with_dropout(), max_epochs=4)


@pytest.mark.parametrize("at", ["batch", "start"])
def test_resumed_training_is_the_one_without_interruption(tmp_path, whole, at):
    cut_short(tmp_path, 2, max_epochs=4, at=at)
    cut_short(tmp_path, 3, max_epochs=4, at=at)
    same(train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path), whole)
    assert whole.history["train_loss"].index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2, "checkpoint_every_n_epochs": 2},
        {"validation_size": 0.2, "precision": "bf16-mixed"},
    ],
)
def test_options_that_resumption_depends_on(tmp_path, options):
    whole = train(with_dropout(), max_epochs=5, **options)
    cut_short(tmp_path, 3, max_epochs=5, **options)
    same(train(with_dropout(), max_epochs=5, checkpoint_dir=tmp_path, **options), whole)


def test_workers_change_nothing(whole):
    same(train(with_dropout(), max_epochs=4, num_workers=2), whole)


def test_early_stopping_goes_on_and_stays_stopped(tmp_path):
    # A learning rate this large makes the validation loss rise now and then.
    options = {
        "max_epochs": 30,
        "early_stopping": True,
        "early_stopping_patience": 3,
        "plan_kwargs": {"learning_rate": 0.01},
    }
    whole = train(tiny_model(), **options)
    n_epochs = len(whole.history["train_loss"])
    assert 4 < n_epochs < 30
    cut_short(tmp_path, n_epochs - 2, tiny_model(), **options)
    for _ in range(2):
        same(train(tiny_model(), checkpoint_dir=tmp_path, **options), whole)


def test_complete_training_is_not_repeated(tmp_path, whole):
    same(train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path), whole)
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    same(train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path, callbacks=[PowerCut(0)]), whole)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == changed


def test_last_two_are_kept(tmp_path):
    train(tiny_model(), max_epochs=5, checkpoint_dir=tmp_path / "new" / "folder", checkpoint_every_n_epochs=2)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["epoch-00004", "epoch-00005"]


def truncate(state):
    with state.open("r+b") as file:
        file.truncate(state.stat().st_size // 2)


def alter(state):
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)


def no_json(state):
    state.with_name("about.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, alter, Path.unlink, no_json])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, whole, damage):
    cut_short(tmp_path, 3, max_epochs=4)
    damage(tmp_path / "epoch-00003" / "state.pt")
    with pytest.warns(UserWarning, match="goes on from .*epoch-00002.*damaged are .*epoch-00003"):
        resumed = with_dropout()
        resumed.train(
            4, batch_size=5, windows_per_epoch=13, accelerator="cpu", enable_progress_bar=False, checkpoint_dir=tmp_path
        )
    same(resumed, whole)
    cut_short(tmp_path / "other", 3, max_epochs=4)
    for path in (tmp_path / "other").glob("epoch-*/state.pt"):
        damage(path)
    with pytest.raises(
        ValueError, match="No checkpoint in `checkpoint_dir`=.* can be read: .*epoch-00003.*epoch-00002"
    ):
        train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path / "other")


def test_nothing_is_unpickled(tmp_path):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return Path.touch, (ran,)

    cut_short(tmp_path, 1)
    state, about = tmp_path / "epoch-00001" / "state.pt", tmp_path / "epoch-00001" / "about.json"
    torch.save({"state_dict": Payload()}, state)
    torch.load(state, weights_only=False)
    assert ran.exists()  # the payload works, where it is let
    ran.unlink()
    found = json.loads(about.read_text())
    about.write_text(json.dumps({**found, "state_sha256": hashlib.sha256(state.read_bytes()).hexdigest()}))
    with pytest.raises(ValueError, match="can be read: .*UnpicklingError"):
        train(with_dropout(), checkpoint_dir=tmp_path)
    assert not ran.exists()


def other_slides():
    return tiny_model(corpus=tiny_corpus(3))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (tiny_model, {"batch_size": 6}, "`batch_size` was 5 and is 6"),
        (tiny_model, {"windows_per_epoch": 14}, "`windows_per_epoch` was 13 and is 14"),
        (tiny_model, {"max_epochs": 9}, "`max_epochs` was 2 and is 9"),
        (tiny_model, {"plan_kwargs": {"learning_rate": 0.01}}, "`optimizer.learning_rate` was 0.001 and is 0.01"),
        (tiny_model, {"precision": "bf16-mixed"}, "`precision` was '32-true' and is 'bf16-mixed'"),
        (lambda: tiny_model(seed=3), {}, "`seed` was 0 and is 3"),
        (lambda: tiny_model(window=5), {}, "`spec.window` was 6 and is 5"),
        (lambda: tiny_model("spot"), {}, "`unit.name` was 'patch' and is 'spot'"),
        (other_slides, {}, "`n_slides` was 5 and is 3; `slides.slide3` was .* and is absent"),
        (lambda: train(tiny_model()), {}, "`n_tokens_seen` was 0 and is"),
    ],
)
def test_another_training_is_refused(another, model, options, message):
    built = model()
    before = {path: path.stat().st_mtime_ns for path in another.rglob("*")}
    weights = built.model_id
    with pytest.raises(ValueError, match=f"holds checkpoints of another training: .*{message}"):
        train(built, checkpoint_dir=another, **options)
    assert built.model_id == weights
    assert {path: path.stat().st_mtime_ns for path in another.rglob("*")} == before


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """A folder with the checkpoints of a training."""
    directory = tmp_path_factory.mktemp("another")
    train(tiny_model(), checkpoint_dir=directory)
    return directory


def test_counts_of_a_slide_are_part_of_a_training(another):
    corpus = tiny_corpus()
    slide = corpus[1]
    changed = [*corpus.slides[:1], replace(slide, library_size=slide.library_size * 2), *corpus.slides[2:]]
    with pytest.raises(ValueError, match="another training: `slides.slide1` was .* and is "):
        train(tiny_model(corpus=type(corpus)(changed, corpus.genes)), checkpoint_dir=another)


def test_other_devices_are_no_other_training(another):
    train(tiny_model(), checkpoint_dir=another, num_workers=1, enable_model_summary=False)


def test_full_disk(tmp_path, whole):
    cut_short(tmp_path, 1, max_epochs=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    size = max(len(content) for content in before.values())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoint of epoch 2 could not be written.*File too large") as caught:
            train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename.endswith("state.pt")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    same(train(with_dropout(), max_epochs=4, checkpoint_dir=tmp_path), whole)


def test_left_over_files_go(tmp_path):
    (tmp_path / ".writing-epoch-00001").mkdir()
    (tmp_path / ".writing-epoch-00001" / "state.pt").write_bytes(b"half")
    train(tiny_model(), checkpoint_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001", "epoch-00002"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`checkpoint_dir`=.* is a file"):
        train(tiny_model(), checkpoint_dir=tmp_path / "file")
    with pytest.raises(TypeError, match="`checkpoint_dir` must be a path"):
        train(tiny_model(), checkpoint_dir=3)


def test_killed_at_random_moments(tmp_path):
    done = subprocess.run(
        [sys.executable, TESTS / "killed_training.py", tmp_path, "3", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["killed_after"]) == 3
    assert found["n_done"] >= 1


def test_number_of_windows_is_that_of_the_epoch(tmp_path):
    """A training that is resumed sees the windows of the epochs that were left, also from workers."""

    class Seen(lightning.Callback):
        def __init__(self):
            self.windows = {}

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            found = self.windows.setdefault(trainer.current_epoch, [])
            found.extend(np.float64(batch["expression"].sum(dim=(1, 2))).tolist())

    whole = Seen()
    train(with_dropout(), max_epochs=3, callbacks=[whole])
    for num_workers in (0, 2):
        resumed = Seen()
        cut_short(tmp_path / str(num_workers), 1, max_epochs=3)
        train(
            with_dropout(),
            max_epochs=3,
            num_workers=num_workers,
            checkpoint_dir=tmp_path / str(num_workers),
            callbacks=[resumed],
        )
        assert resumed.windows == {epoch: whole.windows[epoch] for epoch in (1, 2)}


def test_with_a_trainer_of_lightning(tmp_path, whole):
    """As in the guide, without scvi-tools."""

    def losses(epoch=None):
        model, history = with_dropout(), LossHistory()
        windows = WindowDataModule(model.corpus, model.spec, batch_size=5, windows_per_epoch=13)
        plan = MaskedTrainingPlan(model.module.train(), model.optimizer, n_steps=12)
        checkpoints = TrainingCheckpoints(tmp_path, {"seed": 0})
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=4,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            callbacks=[*([] if epoch is None else [PowerCut(epoch)]), FiniteLoss(None), history, checkpoints],
        )
        checkpoints.fit(trainer, plan, windows)
        return list(history.losses["train_loss"].values())

    with pytest.raises(PowerCutError):
        losses(2)
    expected = whole.history["train_loss"].iloc[:, 0].tolist()
    for _ in range(2):
        assert losses() == expected
