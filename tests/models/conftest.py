from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from stained import aligner_of, apart, prepared, stained_tissue

from stimage import datasets, pp
from stimage.models import STAlign, STImage

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


@pytest.fixture(autouse=True, scope="session")
def image_cache(tmp_path_factory):
    """Image features are kept for the tests, and not in the cache of who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def simulated_stained() -> AnnData:
    return prepared(stained_tissue(seed=3))


@pytest.fixture
def stained(simulated_stained) -> AnnData:
    """A slide of some 50 spots with image, grid and niches."""
    return simulated_stained.copy()


@pytest.fixture(scope="session")
def aligner(simulated_stained) -> STAlign:
    """An aligner after two epochs on the stained slide; not to be changed."""
    return aligner_of(simulated_stained.copy())


@pytest.fixture(scope="session")
def simulated_stained_pair() -> AnnData:
    both = stained_tissue(n_slides=2, seed=5)
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


@pytest.fixture
def stained_pair(simulated_stained_pair) -> AnnData:
    """Two stained slides in one AnnData, their rows interleaved."""
    return prepared(simulated_stained_pair.copy(), slide_key="slide")


@pytest.fixture
def stained_parts(simulated_stained_pair) -> list[AnnData]:
    """The two slides apart."""
    return apart(simulated_stained_pair)
