"""Two processes on the CPU (gloo), each with batches of its own, against one that adds up two batches a step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from aligned_in_processes import RATE, TRAINING, tiny_aligner
from safetensors.torch import load_file
from stained import QUIET, apart, stained_tissue, tiny_encoder

from stimage import pp
from stimage.data import AlignmentDataModule, EpochSampler
from stimage.train import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._fit import fit

SCRIPT = Path(__file__).parents[1] / "aligned_in_processes.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("devices")
    sections = apart(stained_tissue(12, 9, n_slides=2, seed=0))
    pp.build_corpus(sections, directory / "corpus", n_pool_genes=40)
    pp.build_pairs(sections, directory / "corpus", image_encoder=tiny_encoder())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, directory],
            env={**os.environ, **setting, "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank)},
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return directory


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*num_workers")
def test_a_step_is_that_of_two_batches(trained):
    model = tiny_aligner(trained / "corpus")
    data = AlignmentDataModule(model.paired.slides, batch_size=TRAINING["batch_size"])
    assert data.dataset.n_batches == 4
    optimizer = AlignmentOptimizerConfig(**RATE)
    plan = AlignmentPlan(model.module.train(), optimizer, n_steps=4)
    options = {"max_epochs": 2, "devices": 1, "gradient_clip_val": optimizer.gradient_clip, **QUIET}
    losses, n_spots, _ = fit(plan, data, accumulate_grad_batches=2, check_val_every_n_epoch=None, **options)
    first, second = (load_file(trained / f"process{rank}.safetensors") for rank in (0, 1))
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(first[f"module.{name}"], value, rtol=1e-3, atol=1e-4)
    for name, value in second.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=0)
    assert first["tokens"].tolist() == [n_spots]
    # Batches count alike, whatever their number of spots.
    np.testing.assert_allclose(first["loss.train_loss"].ravel(), losses["train_loss"].to_numpy().ravel(), rtol=0.01)


def test_spots_of_all_slides_are_compared_on_one_device(trained):
    for rank in (0, 1):
        assert "Pass `devices=1`, or `negatives='slide'`" in (trained / f"error{rank}.txt").read_text()


@pytest.mark.parametrize(("n_batches", "n_devices"), [(7, 1), (7, 2), (8, 3), (2, 2)])
def test_parts_of_an_epoch(n_batches, n_devices):
    """Nothing twice, as many steps for each, and hardly anything left out."""
    samplers = [EpochSampler(n_batches, rank=rank, n_processes=n_devices) for rank in range(n_devices)]
    for sampler in samplers:
        sampler.set_epoch(3)
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(sampler) for sampler in samplers} == {n_batches // n_devices}
    seen = sorted(number for part in parts for number in part)
    assert seen == list(range(3 * n_batches, 3 * n_batches + n_batches - n_batches % n_devices))
