"""Checks of the options of models, before any work starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from stimage import _validate
from stimage._paths import path_of
from stimage.data import Slide
from stimage.data.sampling._gene_selection import GENE_SELECTIONS
from stimage.data.sampling.masking import MASKINGS
from stimage.data.sampling.units import NEIGHBOR_WEIGHTS, UNITS, SampleUnit
from stimage.models._presets import PRESETS
from stimage.models._site_vectors import EMBEDDING_MODES, EmbeddingMode

Sampling = Literal["cpu", "device"]
"""Where windows are cut for training."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names for what a model can be trained in."""
DECISIVE = (
    "max_epochs",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "early_stopping",
    "early_stopping_monitor",
    "early_stopping_min_delta",
    "early_stopping_patience",
    "early_stopping_warmup_epochs",
    "early_stopping_mode",
)
"""Arguments of the trainer that decide what is learned."""


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


def check_unit_options(
    *, unit: Any, masking: Any, window: Any, n_neighbors: Any, neighbor_weights: Any, n_macro_domains: Any
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for a sample unit that a model cannot be built with."""
    _validate.check_choice("unit", unit, UNITS)
    _validate.check_choice("neighbor_weights", neighbor_weights, NEIGHBOR_WEIGHTS)
    _validate.check_positive("n_neighbors", n_neighbors)
    _validate.check_positive("n_macro_domains", n_macro_domains)
    if unit != "patch" and masking not in (None, "site_gene"):
        raise ValueError(
            f"`masking`={masking!r} hides sites of a window, `unit`={unit!r} hides single values of a spot: leave `masking` "
            "out, or pass `unit='patch'`."
        )
    if unit == "neighborhood" and 1 + n_neighbors > window**2:
        raise ValueError(
            f"A spot and its `n_neighbors`={n_neighbors} neighbours are more than the {window**2} tokens of a sample "
            f"(`window`={window}): pass fewer neighbours or a larger window."
        )


def check_window(window: int, slides: Iterable[Slide]) -> None:
    """Raise ``ValueError`` when a window is larger than every slide."""
    largest = max(slides, key=lambda slide: min(slide.shape))
    if window > max(max(slide.shape) for slide in slides):
        raise ValueError(
            f"`window`={window} is larger than every slide; the largest, {largest.name!r}, has {largest.shape[0]} x "
            f"{largest.shape[1]} sites: pass `window={max(min(largest.shape), 2)}` or less."
        )


def embedding_mode(mode: Any, unit: SampleUnit, *, tile_size: Any = None) -> EmbeddingMode:
    """The mode that was asked for, or the default of the unit; raise ``ValueError`` unless the unit has it."""
    if mode is not None:
        _validate.check_choice("mode", mode, EMBEDDING_MODES)
    if unit.name == "patch":
        return "context" if mode is None else mode
    if mode not in (None, "visible"):
        raise ValueError(
            f"`mode`={mode!r} hides sites, which a model of `unit`={unit.name!r} never saw: leave `mode` out, or pass "
            "`mode='visible'`."
        )
    if tile_size is not None:
        raise ValueError(
            f"`tile_size`={tile_size!r} is for windows, which `unit`={unit.name!r} has none of: leave it out."
        )
    return "visible"


def check_training_options(
    *,
    max_epochs: Any,
    batch_size: Any,
    windows_per_epoch: Any,
    learning_rate: Any,
    validation_size: Any,
    early_stopping: Any,
    precision: Any,
    accumulate_grad_batches: Any,
    sampling: Any,
    unit: SampleUnit,
    num_workers: Any,
    checkpoint_dir: Any,
    checkpoint_every_n_epochs: Any,
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for options that a model cannot be trained with."""
    _validate.check_positive("max_epochs", max_epochs)
    _validate.check_positive("batch_size", batch_size)
    _validate.check_positive("accumulate_grad_batches", accumulate_grad_batches)
    _validate.check_positive("num_workers", num_workers, smallest=0)
    _validate.check_positive("checkpoint_every_n_epochs", checkpoint_every_n_epochs)
    if checkpoint_dir is not None:
        _validate.check_path("checkpoint_dir", checkpoint_dir)
        if path_of(checkpoint_dir).exists() and not path_of(checkpoint_dir).is_dir():
            raise ValueError(f"`checkpoint_dir`={str(checkpoint_dir)!r} is a file: pass a folder.")
    if windows_per_epoch is not None:
        _validate.check_positive("windows_per_epoch", windows_per_epoch)
    if learning_rate is not None:
        _validate.check_range("learning_rate", learning_rate, 0, 1)
    if validation_size is not None and validation_size != 0:
        _validate.check_range("validation_size", validation_size, 0, 1)
    elif early_stopping and validation_size == 0:
        raise ValueError("`early_stopping=True` needs `validation_size` above 0, found 0.")
    _validate.check_choice("precision", precision, PRECISIONS)
    _validate.check_choice("sampling", sampling, get_args(Sampling))
    if sampling == "device" and unit.name != "patch":
        raise ValueError(
            f"`sampling='device'` cuts windows, which `unit`={unit.name!r} has none of: leave `sampling` out."
        )


def decisive_options(
    trainer_options: dict[str, Any],
    *,
    batch_size: int,
    windows_per_epoch: int,
    validation_size: float,
    sampling: Sampling,
) -> dict[str, Any]:
    """Options that decide what a training learns, beside its model; JSON-compatible.

    Which devices it runs on is not among them: a training may go on elsewhere.
    """
    decisive = {name: trainer_options[name] for name in DECISIVE if name in trainer_options}
    return decisive | {
        "batch_size": batch_size,
        "windows_per_epoch": windows_per_epoch,
        "validation_size": float(validation_size),
        "sampling": sampling,
    }
