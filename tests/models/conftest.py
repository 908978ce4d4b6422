from collections.abc import Callable
from typing import Any

import pytest
from anndata import AnnData

from stimage import datasets, pp
from stimage.models import STImage

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
SIZES = {"window": 8, "n_pool_genes": 60, "n_genes": 32}


@pytest.fixture(autouse=True, scope="session")
def quiet_training():
    """Lightning and scvi-tools report on every run; only warnings of ours are of interest."""
    import logging

    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def simulated_tissue() -> AnnData:
    adata = datasets.simulate_tissue(n_rows=24, n_cols=20, n_genes=120, n_domains=4, seed=0)
    pp.compact_grid(adata)
    return adata


@pytest.fixture
def tissue(simulated_tissue) -> AnnData:
    """A simulated slide with a grid; about 400 spots and 120 genes."""
    return simulated_tissue.copy()


@pytest.fixture(scope="session")
def fit() -> Callable[..., STImage]:
    """Build a model and train it for a moment."""

    def fit(data: Any, *, seed: int = 0, training: dict[str, Any] | None = None, **model: Any) -> STImage:
        built = STImage(data, **{**SIZES, "seed": seed, **model})
        built.train(**{"max_epochs": 2, "batch_size": 8, "windows_per_epoch": 24, **QUIET, **(training or {})})
        return built

    return fit


@pytest.fixture(scope="session")
def trained(simulated_tissue, fit) -> STImage:
    """A model after a few epochs; not to be changed."""
    return fit(simulated_tissue, training={"max_epochs": 4})
