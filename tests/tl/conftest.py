import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from helpers import in_groups
from stained import aligner_of, prepared, stained_tissue

from stimage import datasets, pp, tl
from stimage.models import STAlign, STImage

SIZES = {"window": 6, "n_pool_genes": 40, "n_genes": 20, "max_epochs": 1, "windows_per_epoch": 8, "batch_size": 4}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}


@pytest.fixture(autouse=True, scope="session")
def quiet_training():
    """Lightning and scvi-tools report on every run; only warnings of ours are of interest."""
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def pretrain() -> Callable[..., STImage]:
    """Pretrain for a moment."""

    def pretrain(adatas: Any, **options: Any) -> STImage:
        return tl.pretrain(adatas, **in_groups(tl.pretrain, **{**SIZES, **QUIET, **options}))

    return pretrain


@pytest.fixture(scope="session")
def simulated() -> AnnData:
    adata = datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=60, n_domains=3, seed=0)
    pp.compact_grid(adata)
    return adata


@pytest.fixture
def slide(simulated) -> AnnData:
    """A slide of 81 spots and 60 genes, with a grid."""
    return simulated.copy()


@pytest.fixture(scope="session")
def model(simulated, pretrain) -> STImage:
    """A model that knows 40 of the 60 genes; not to be changed."""
    return pretrain(simulated.copy())


@pytest.fixture(scope="session")
def simulated_pair() -> AnnData:
    both = datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=60, n_domains=3, n_slides=2, seed=3)
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    pp.compact_grid(both, slide_key="slide")
    return both


@pytest.fixture
def pair(simulated_pair) -> AnnData:
    """Two slides in one AnnData, their rows interleaved, and a grid for each."""
    return simulated_pair.copy()


@pytest.fixture
def parts(pair) -> list[AnnData]:
    """The two slides apart."""
    parts = [pair[pair.obs["slide"] == name].copy() for name in pair.obs["slide"].cat.categories]
    for part in parts:
        pp.compact_grid(part)
    return parts


@pytest.fixture
def cells() -> AnnData:
    """Single cells in bins, most of which hold several."""
    adata = datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=60, n_domains=3, layout="irregular", seed=1)
    pp.compact_grid(adata, layout="bins", bin_size=300.0)
    assert adata.obs.groupby(["grid_row", "grid_col"]).size().median() > 2
    return adata


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
    """A slide of some 50 spots and 60 genes with image, grid and niches."""
    return simulated_stained.copy()


@pytest.fixture(scope="session")
def aligner(simulated_stained) -> STAlign:
    """An aligner that knows 40 of the 60 genes; not to be changed."""
    return aligner_of(simulated_stained.copy())


@pytest.fixture(scope="session")
def simulated_stained_pair() -> AnnData:
    both = stained_tissue(n_slides=2, seed=5)
    return prepared(both[np.random.default_rng(0).permutation(both.n_obs)].copy(), slide_key="slide")


@pytest.fixture
def stained_pair(simulated_stained_pair) -> AnnData:
    """Two stained slides in one AnnData, their rows interleaved."""
    return simulated_stained_pair.copy()
