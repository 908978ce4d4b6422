"""Options of training by their own names or in groups."""

import numpy as np
import pytest
from helpers import assert_unchanged

from stimage import datasets, pp, tl

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def adata():
    adata = datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=60)
    pp.compact_grid(adata)
    return adata


def test_both_ways_are_one(adata):
    common = {"window": 6, "n_pool_genes": 40, "max_epochs": 1, "batch_size": 4}
    options = {"n_genes": 20, "mask_ratio": 0.5, "learning_rate": 2e-3, "windows_per_epoch": 8}
    by_name = tl.pretrain(adata, **common, **options, **QUIET)
    in_groups = tl.pretrain(
        adata,
        **common,
        model_kwargs={"n_genes": 20, "mask_ratio": 0.5},
        plan_kwargs={"learning_rate": 2e-3},
        trainer_kwargs={"windows_per_epoch": 8, **QUIET},
    )
    assert by_name.model_id == in_groups.model_id
    assert (by_name.spec.mask_ratio, by_name.optimizer.learning_rate) == (0.5, 2e-3)
    np.testing.assert_array_equal(by_name.get_latent_representation(), in_groups.get_latent_representation())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ration": 0.5}, "has no option 'mask_ration'; did you mean 'mask_ratio'"),
        (
            {"mask_ratio": 0.5, "model_kwargs": {"mask_ratio": 0.5}},
            "`mask_ratio` is passed by name and in `model_kwargs`",
        ),
        ({"learning_rate": 1, "plan_kwargs": {"learning_rate": 1}}, "by name and in `plan_kwargs`"),
    ],
)
def test_mistakes(adata, options, message):
    with assert_unchanged(adata), pytest.raises(TypeError, match=message):
        tl.pretrain(adata, window=6, **options)
    if "learning_rate" not in options:
        return
    with assert_unchanged(adata), pytest.raises(TypeError, match=message):
        tl.align(adata, **options)
