"""Checks that several tests share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from stimage import models, train


@contextmanager
def assert_unchanged(*adatas: AnnData) -> Iterator[None]:
    """Fail if anything in the AnnData differs after the block, which may raise."""
    before = [adata.copy() for adata in adatas]
    try:
        yield
    finally:
        for old, new in zip(before, adatas, strict=True):
            new = new.copy() if new.is_view else new
            pd.testing.assert_frame_equal(old.obs, new.obs)
            pd.testing.assert_frame_equal(old.var, new.var)
            _same(old.X, new.X)
            for field in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
                _same(dict(getattr(old, field)), dict(getattr(new, field)))


def _same(old: object, new: object) -> None:
    assert type(old) is type(new)
    if isinstance(old, dict):
        assert list(old) == list(new)
        for key in old:
            _same(old[key], new[key])
    elif sparse.issparse(old):
        assert old.dtype == new.dtype
        assert old.shape == new.shape
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(old, part), getattr(new, part))
    elif isinstance(old, pd.DataFrame):
        pd.testing.assert_frame_equal(old, new)
    else:
        np.testing.assert_array_equal(old, new)


def in_groups(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Options of ``tl.pretrain`` or ``tl.align`` as they take them: those without a parameter of their own in groups."""
    model, plan = {
        "pretrain": (models.STImage, train.OptimizerConfig),
        "align": (models.STAlign, train.AlignmentOptimizerConfig),
    }[function.__name__]
    groups = {
        "model_kwargs": inspect.signature(model).parameters,
        "plan_kwargs": inspect.signature(plan).parameters,
        "trainer_kwargs": options,
    }
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in inspect.signature(function).parameters:
            found[name] = value
        else:
            group = next(group for group, names in groups.items() if name in names)
            found.setdefault(group, {})[name] = value
    return found
