"""Two processes on the CPU (gloo) against one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import MODELS, record, tiny_corpus, tiny_model

from stimage.data import EpochSampler, JointBatchSampler
from stimage.models import STImage

SCRIPT = Path(__file__).parents[1] / "tiny_training.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """What two processes wrote, side by side, and what one process (``one``) wrote of the same trainings."""
    directory = tmp_path_factory.mktemp("trained")
    tiny_corpus().write(directory / "corpus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    setting |= {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, directory],
            env={**os.environ, **setting, "LOCAL_RANK": str(rank)},
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    for kind in MODELS:
        record(tiny_model(kind), directory / kind / "one")
    record(tiny_model(), directory / "validated" / "one", validation_size=0.2, early_stopping=True)
    record(tiny_model(), directory / "accumulated" / "one", batch_size=8)
    record(tiny_model(), directory / "kept" / "one")
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return directory


def found(directory: Path, name: str, who: str) -> dict:
    path = directory / name / who
    return {**json.loads(path.with_suffix(".json").read_text()), "tensors": load_file(path.with_suffix(".safetensors"))}


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_and_losses_are_those_of_one_device(trained, kind):
    one, first, second = (found(trained, kind, who) for who in ("one", "process0", "process1"))
    names = [name for name in one["tensors"] if name.startswith("gradient.")]
    assert names
    for name in names:
        torch.testing.assert_close(first["tensors"][name], one["tensors"][name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(second["tensors"][name], first["tensors"][name], rtol=0, atol=0)
    assert len(one["losses"]["train_loss"]) == 2
    np.testing.assert_allclose(first["losses"]["train_loss"], one["losses"]["train_loss"], rtol=1e-5)
    assert first["losses"] == second["losses"]
    assert first["tokens"] == second["tokens"] == one["tokens"]
    assert first["model_id"] == second["model_id"]


@pytest.mark.parametrize("name", ["validated", "accumulated"])
def test_losses_with_validation_and_with_accumulated_batches(trained, name):
    one, first, second = (found(trained, name, who) for who in ("one", "process0", "process1"))
    assert first["losses"] == second["losses"]
    assert first["model_id"] == second["model_id"]
    assert sorted(first["losses"]) == sorted(one["losses"])
    # The parts of an accumulated batch each count with their own mean in the loss that is shown.
    np.testing.assert_allclose(
        first["losses"]["train_loss"], one["losses"]["train_loss"], rtol=1e-5 if name == "validated" else 0.02
    )
    if name == "validated":
        np.testing.assert_allclose(first["losses"]["validation_loss"], one["losses"]["validation_loss"], rtol=1e-5)
    for weight, value in one["tensors"].items():
        if weight.startswith("weight."):
            # Adam moves a weight by the sign of its gradient, which rounding may turn where there is next to none.
            close = torch.isclose(first["tensors"][weight], value, rtol=1e-3, atol=1e-4)
            assert close.float().mean() > 0.999, weight


@pytest.mark.parametrize(("name", "sizes"), [("values", [5, 5, 3]), ("joined", [6, 7])])
def test_no_window_twice_and_none_left_out(trained, name, sizes):
    one, first, second = (found(trained, who[0], who[1])["windows"] for who in (("values", "one"), *pairs(name)))
    assert [len(a) + len(b) for a, b in zip(first, second, strict=True)] == 2 * sizes
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(first, second, strict=True))
    seen = [window for step in first + second for window in step]
    assert len(set(seen)) == len(seen) == 26
    assert set(seen) == {window for step in one for window in step}


def pairs(name):
    return [(name, "process0"), (name, "process1")]


def test_checkpoints_are_written_once_and_found_by_all(trained):
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["epoch-00001", "epoch-00002"]
    plain, kept = found(trained, "values", "process0"), found(trained, "kept", "process0")
    resumed = [found(trained, "resumed", f"process{rank}") for rank in (0, 1)]
    assert kept["model_id"] == plain["model_id"]
    assert [again["model_id"] for again in resumed] == 2 * [kept["model_id"]]
    assert [again["losses"] for again in resumed] == 2 * [kept["losses"]]
    assert [again["windows"] for again in resumed] == [[], []]  # it was complete: nothing is trained again


def test_all_have_the_same_readout_and_the_first_saves(trained):
    model_ids = [(trained / f"readout{rank}.txt").read_text() for rank in (0, 1)]
    saved = STImage.load(trained / "saved")
    assert saved.readout is not None
    assert model_ids == 2 * [saved.model_id]


def test_all_share_the_tiles_of_a_readout(trained):
    (first, alone), (second, _) = (np.load(trained / f"predicted{rank}.npy") for rank in (0, 1))
    np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(first, second)


def test_batch_that_is_too_small(trained):
    for rank in (0, 1):
        assert "`batch_size`=1 is less than the 2 devices" in (trained / f"error{rank}.txt").read_text()


def test_processes_share_a_corpus_on_the_disk(trained):
    plain = found(trained, "values", "process0")
    for rank in (0, 1):
        stored = found(trained, "stored", f"process{rank}")
        np.testing.assert_allclose(stored["losses"]["train_loss"], plain["losses"]["train_loss"], rtol=1e-5)


def test_nothing_else_is_written(trained):
    expected = {"checkpoints", "corpus", "saved", "validated", "accumulated", "joined", "kept", "resumed", "stored"}
    files = {
        f"{kind}{rank}.{end}"
        for kind, end in (("readout", "txt"), ("predicted", "npy"), ("error", "txt"), ("done", "npy"))
        for rank in (0, 1)
    }
    assert {path.name for path in trained.iterdir()} == expected | files | set(MODELS)


@pytest.mark.parametrize("n_windows", [4, 7, 8, 23, 40])
@pytest.mark.parametrize("batch_size", [4, 5, 8])
@pytest.mark.parametrize("n_processes", [1, 2, 3, 4])
def test_parts_of_batches(n_windows, batch_size, n_processes):
    samplers = [
        JointBatchSampler(EpochSampler(n_windows), batch_size, rank=rank, n_processes=n_processes)
        for rank in range(n_processes)
    ]
    for sampler in samplers:
        sampler.sampler.set_epoch(3)
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    joint = [[number for part in step for number in part] for step in zip(*parts, strict=True)]
    assert [number for batch in joint for number in batch] == list(range(3 * n_windows, 4 * n_windows))
    sizes = [[len(part) for part in step] for step in zip(*parts, strict=True)]
    assert all(max(step) - min(step) <= 1 and min(step) >= 1 for step in sizes)
    assert all(len(batch) == batch_size for batch in joint[:-1])
    assert len(joint[-1]) < batch_size + n_processes
    if n_processes == 1:
        assert len(joint) == -(-n_windows // batch_size)
