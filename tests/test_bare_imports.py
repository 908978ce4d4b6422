"""A cluster's image of PyTorch is enough to train: nothing else may be imported."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALLOWED = ("numpy", "scipy", "numba", "torch", "lightning", "safetensors", "lazy-loader")

REFUSE = """
import sys

finders = sys.meta_path[:]


class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in REFUSED:
            return next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)


sys.meta_path[:] = [Bare()]
"""

TRAIN = """
import warnings

import lightning
import numpy as np
from scipy import sparse

import stimage.data, stimage.modules, stimage.train
from stimage.data import Corpus, Slide, WindowDataModule, WindowSpec
from stimage.modules import AutoencoderConfig, MaskedAutoencoder
from stimage.train import MaskedTrainingPlan, OptimizerConfig

rng = np.random.default_rng(0)
n_rows, n_cols, n_genes = 12, 10, 30
counts = rng.poisson(1.0, (n_rows * n_cols, n_genes)).astype(np.float32) + np.eye(1, n_genes, dtype=np.float32)
slide = Slide(
    name="simulated",
    expression=sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))),
    library_size=counts.sum(axis=1),
    raster=np.arange(n_rows * n_cols, dtype=np.int32).reshape(n_rows, n_cols),
    layout="hex",
    parity=0,
    measured=np.ones(n_genes, dtype=bool),
    observation_index=np.arange(n_rows * n_cols),
    site_of_observation=np.arange(n_rows * n_cols),
)
corpus = Corpus([slide], [f"gene{i}" for i in range(n_genes)])
windows = WindowDataModule(corpus, WindowSpec(window=6, n_genes=8), batch_size=2, windows_per_epoch=4)
module = MaskedAutoencoder(n_genes, AutoencoderConfig(dim=16, n_layers=1))
plan = MaskedTrainingPlan(module, OptimizerConfig(), n_steps=2)
before = module.genes.embedding.detach().clone()
warnings.simplefilter("ignore")
trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(plan, windows)
print(trainer.global_step, bool((module.genes.embedding != before).any()))
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """Distributions that come with some others."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        # Extras of what is asked for, such as fsspec[http], may be there or not: they are refused.
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def refused() -> set[str]:
    """Modules of all distributions that a bare image lacks."""
    allowed = closure(ALLOWED)
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if module != "stimage" and not {canonicalize_name(name) for name in distributions} & allowed
    }


def run(refused: set[str], code: str) -> subprocess.CompletedProcess:
    program = f"REFUSED = {sorted(refused)!r}\n{REFUSE}\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_what_is_refused(refused):
    assert {"anndata", "pandas", "scanpy", "squidpy", "scvi", "sklearn", "matplotlib", "pytest"} <= refused
    assert not refused & {"numpy", "torch", "lightning", "numba", "safetensors", "yaml", "torchmetrics"}
    assert "No module named 'pandas'" in run(refused, "import pandas").stderr


def test_training_on_a_bare_image(refused):
    done = run(refused, TRAIN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2", "True"]
