"""Checks of the options of models, before any work starts."""

from __future__ import annotations

from typing import Any

from stimage import _validate
from stimage.data._gene_selection import GENE_SELECTIONS
from stimage.data._masking import MASKINGS
from stimage.models._presets import PRESETS


def check_model_options(
    *,
    preset: Any,
    gene_selection: Any,
    masking: Any,
    mask_ratio: Any,
    window: Any,
    n_genes: Any,
    n_pool_genes: Any,
    seed: Any,
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for options that :class:`stimage.models.STImage` cannot be built with."""
    _validate.check_choice("preset", preset, PRESETS)
    _validate.check_choice("gene_selection", gene_selection, GENE_SELECTIONS)
    if masking is not None:
        _validate.check_choice("masking", masking, MASKINGS)
    if mask_ratio is not None:
        _validate.check_range("mask_ratio", mask_ratio, 0, 1)
    _validate.check_positive("window", window, smallest=2)
    _validate.check_positive("n_genes", n_genes)
    _validate.check_positive("n_pool_genes", n_pool_genes)
    _validate.check_seed(seed)


def check_training_options(
    *,
    max_epochs: Any,
    batch_size: Any,
    windows_per_epoch: Any,
    learning_rate: Any,
    validation_size: Any,
    early_stopping: Any,
    num_workers: Any,
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for options that a model cannot be trained with."""
    _validate.check_positive("max_epochs", max_epochs)
    _validate.check_positive("batch_size", batch_size)
    _validate.check_positive("num_workers", num_workers, smallest=0)
    if windows_per_epoch is not None:
        _validate.check_positive("windows_per_epoch", windows_per_epoch)
    if learning_rate is not None:
        _validate.check_range("learning_rate", learning_rate, 0, 1)
    if validation_size is not None and validation_size != 0:
        _validate.check_range("validation_size", validation_size, 0, 1)
    elif early_stopping and validation_size == 0:
        raise ValueError("`early_stopping=True` needs `validation_size` above 0, found 0.")
