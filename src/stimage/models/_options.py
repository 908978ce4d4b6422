"""Options of models, checked before any work starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, Self, TypeVar, get_args

from stimage import _validate
from stimage._paths import path_of
from stimage.data import SampleUnit, Slide, WindowSpec
from stimage.data.sampling._gene_selection import GeneSelection
from stimage.data.sampling.masking._registry import Masking
from stimage.data.sampling.units._kind import NeighborWeights, Unit
from stimage.models._presets import PRESETS, Preset

Config = TypeVar("Config")
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


def training_sample(
    *,
    preset: Preset = "default",
    unit: Unit = "patch",
    n_neighbors: int = 16,
    neighbor_weights: NeighborWeights = "learned",
    n_macro_domains: int = 8,
    window: int = 16,
    n_genes: int = 512,
    gene_selection: GeneSelection = "weighted",
    masking: Masking | None = None,
    mask_ratio: float | None = None,
) -> tuple[WindowSpec, SampleUnit]:
    """What a model is trained on: what the preset says where nothing else is chosen.

    Raises
    ------
    TypeError, ValueError
        If an option is invalid, or options do not fit together.
    """
    _validate.check_choice("preset", preset, PRESETS)
    sample_unit = SampleUnit(unit, n_neighbors, neighbor_weights, n_macro_domains)
    chosen = PRESETS[preset]
    if masking is None:
        masking = chosen.masking if sample_unit.kind.has_windows else "site_gene"
    mask_ratio = chosen.mask_ratio if mask_ratio is None else mask_ratio
    spec = WindowSpec(window, n_genes, gene_selection, masking, mask_ratio)
    check_sample(spec, sample_unit)
    return spec, sample_unit


def check_sample(spec: WindowSpec, unit: SampleUnit) -> None:
    """Raise ``ValueError`` unless a sample unit goes with how windows are cut."""
    if not unit.kind.has_windows and spec.masking != "site_gene":
        raise ValueError(
            f"`masking`={spec.masking!r} hides sites of a window, `unit`={unit.name!r} hides single values of a spot: leave "
            "`masking` out, or pass `unit='patch'`."
        )
    if unit.kind.tokens_per_spot(unit) > spec.window**2:
        raise ValueError(
            f"A spot and its `n_neighbors`={unit.n_neighbors} neighbours are more than the {spec.window**2} tokens of a "
            f"sample (`window`={spec.window}): pass fewer neighbours or a larger window."
        )


def check_hides_sites(spec: WindowSpec, what: str, advice: str) -> None:
    """Raise ``ValueError`` for what hides whole sites, of a model that only saw single values hidden."""
    if spec.masking == "site_gene":
        raise ValueError(f"{what} hides sites, which a model trained with `masking='site_gene'` never saw: {advice}.")


def check_window(window: int, slides: Iterable[Slide]) -> None:
    """Raise ``ValueError`` when a window is larger than every slide."""
    largest = max(slides, key=lambda slide: min(slide.shape))
    if window > max(max(slide.shape) for slide in slides):
        raise ValueError(
            f"`window`={window} is larger than every slide; the largest, {largest.name!r}, has {largest.shape[0]} x "
            f"{largest.shape[1]} sites: pass `window={max(min(largest.shape), 2)}` or less."
        )


@dataclass(frozen=True)
class TrainingOptions:
    """How a masked autoencoder is trained: options of :meth:`stimage.models.STImage.train`.

    Parameters
    ----------
    max_epochs
        Number of epochs.
    batch_size
        Windows in a batch, of all devices together.
    windows_per_epoch
        Windows in an epoch. By default so many that each site is in about eight of them, at least two batches.
    validation_size
        Share held out for validation, spatially separate: whole slides when there are five or more, else a block of each
        slide with a buffer of a window's width around it that training does not use either. By default 0, and 0.1 with
        early stopping.
    early_stopping
        Stop when the validation loss no longer falls.
    accelerator, devices
        Where to train, as in Lightning; ``"auto"`` is one device, and with torchrun or srun those that they started.
    precision
        ``"32-true"``, or ``"bf16-mixed"``: matrix products with 16 bits, for GPUs that are fast at it.
    accumulate_grad_batches
        Batches in a step of the optimiser, whose gradient is that of one batch of their joint size.
    sampling
        Where windows are cut: ``"cpu"``, or ``"device"``, where the model is trained and the expression of all slides is then
        kept, in half precision. Faster on a GPU. The windows are others for a seed, of the same distribution.
    num_workers
        Processes that prepare windows ahead on the CPU. Results do not depend on it.
    checkpoint_dir
        Folder for checkpoints. The same call resumes from the last one after an interruption, and ends as if it had never
        stopped; checkpoints of another training are refused. See the guide to clusters.
    checkpoint_every_n_epochs
        Epochs between checkpoints; the last epoch always has one.
    trainer_kwargs
        Arguments of :class:`scvi.train.Trainer`, e.g. ``strategy="ddp"`` and ``num_nodes``.

    Raises
    ------
    TypeError, ValueError
        If an option is invalid, or options do not fit together.

    Examples
    --------
    >>> from stimage.models import TrainingOptions
    >>> TrainingOptions(max_epochs=3, early_stopping=True).held_out
    0.1
    """

    max_epochs: int = 40
    batch_size: int = 32
    windows_per_epoch: int | None = None
    validation_size: float | None = None
    early_stopping: bool = False
    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    sampling: Sampling = "cpu"
    num_workers: int = 0
    checkpoint_dir: Any = None
    checkpoint_every_n_epochs: int = 1
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "accumulate_grad_batches", "checkpoint_every_n_epochs"):
            _validate.check_positive(name, getattr(self, name))
        _validate.check_positive("num_workers", self.num_workers, smallest=0)
        if self.checkpoint_dir is not None:
            _validate.check_path("checkpoint_dir", self.checkpoint_dir)
            folder = path_of(self.checkpoint_dir)
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"`checkpoint_dir`={str(self.checkpoint_dir)!r} is a file: pass a folder.")
        if self.windows_per_epoch is not None:
            _validate.check_positive("windows_per_epoch", self.windows_per_epoch)
        if self.validation_size is not None and self.validation_size != 0:
            _validate.check_range("validation_size", self.validation_size, 0, 1)
        elif self.early_stopping and self.validation_size == 0:
            raise ValueError("`early_stopping=True` needs `validation_size` above 0, found 0.")
        _validate.check_choice("precision", self.precision, PRECISIONS)
        _validate.check_choice("sampling", self.sampling, get_args(Sampling))

    @classmethod
    def of(cls, unit: SampleUnit, max_epochs: int, **options: Any) -> Self:
        """Options of a training on a sample unit: fields of this class, or arguments of the trainer.

        Raises
        ------
        TypeError, ValueError
            If an option is unknown, invalid, or does not fit the unit.
        """
        own = _own_keys()
        if not set(options) <= set(own):
            _validate.check_keys("train", options, training_keys())
        chosen = {name: options.pop(name) for name in own if name in options}
        made = cls(max_epochs, **chosen, trainer_kwargs=options)
        if made.sampling == "device" and not unit.kind.has_windows:
            raise ValueError(
                f"`sampling='device'` cuts windows, which `unit`={unit.name!r} has none of: leave `sampling` out."
            )
        return made

    @property
    def held_out(self) -> float:
        """Share held out for validation."""
        if self.validation_size is None:
            return 0.1 if self.early_stopping else 0.0
        return float(self.validation_size)

    def n_windows(self, slides: Iterable[Slide], window: int) -> int:
        """Windows in an epoch: each site is in about eight of them unless another number was chosen."""
        if self.windows_per_epoch is not None:
            return self.windows_per_epoch
        n_active = sum(int(slide.active.sum()) for slide in slides)
        return max(round(8 * n_active / window**2), 2 * self.batch_size)

    def for_trainer(self, n_windows: int, gradient_clip: float) -> dict[str, Any]:
        """Arguments of scvi-tools' trainer."""
        return {
            "max_epochs": self.max_epochs,
            "accelerator": self.accelerator,
            "devices": self.devices,
            "precision": self.precision,
            "accumulate_grad_batches": self.accumulate_grad_batches,
            "gradient_clip_val": gradient_clip,
            "early_stopping": self.early_stopping,
            "check_val_every_n_epoch": 1 if self.held_out else None,
            "log_every_n_steps": min(math.ceil(n_windows / self.batch_size), 10),
            **self.trainer_kwargs,
        }

    def decisive(self, n_windows: int, gradient_clip: float) -> dict[str, Any]:
        """Options that decide what a training learns, beside its model; JSON-compatible.

        Which devices it runs on is not among them: a training may be resumed elsewhere.
        """
        options = self.for_trainer(n_windows, gradient_clip)
        return {name: options[name] for name in DECISIVE if name in options} | {
            "batch_size": self.batch_size,
            "windows_per_epoch": n_windows,
            "validation_size": self.held_out,
            "sampling": self.sampling,
        }


def group_of(parameter: str, options: object, known: Iterable[str], named: set[str]) -> dict[str, Any]:
    """A group of options as a dict; raise ``TypeError`` for a key that is not known, or has a parameter of its own."""
    if isinstance(options, Mapping):
        for name in options:
            if name in named:
                raise TypeError(f"`{parameter}` holds {name!r}, which is a parameter of its own: pass `{name}=`.")
    return _validate.check_keys(parameter, options, [name for name in known if name not in named])


def by_group(
    options: Mapping[str, Any], groups: Mapping[str, tuple[Mapping[str, Any] | None, Iterable[str]]]
) -> list[Mapping[str, Any] | None]:
    """Groups of options with those added that were passed by their own names.

    Parameters
    ----------
    options
        What was passed by name.
    groups
        Of each group, what was passed as such and the names that it knows.

    Returns
    -------
    list
        The groups, in their order.

    Raises
    ------
    TypeError
        If no group knows a name, or it was passed in both ways.
    """
    merged: dict[str, Any] = {group: given for group, (given, _) in groups.items()}
    known = {name: group for group, (_, names) in reversed(groups.items()) for name in names}
    for name, value in options.items():
        if name not in known:
            _validate.check_keys("options", {name: value}, known)
        group = known[name]
        given = merged[group]
        if isinstance(given, Mapping) and name in given:
            raise TypeError(f"`{name}` is passed by name and in `{group}`: leave one out.")
        if given is None or isinstance(given, Mapping):  # anything else is refused where the group is read
            merged[group] = {**(given or {}), name: value}
    return list(merged.values())


def changed_optimizer(optimizer: Config, plan_kwargs: Mapping[str, Any] | None) -> Config:
    """An optimiser's configuration with some fields replaced; raise ``TypeError`` for a field that it does not have."""
    chosen = _validate.check_keys("plan_kwargs", plan_kwargs, [part.name for part in fields(optimizer)])
    return replace(optimizer, **chosen)


def _own_keys() -> list[str]:
    return [part.name for part in fields(TrainingOptions) if part.name != "trainer_kwargs"]


def training_keys() -> list[str]:
    """All options of the training of a masked autoencoder: its own, and arguments of the trainer."""
    return list(dict.fromkeys([*_own_keys(), *trainer_keys()]))


@cache
def trainer_keys() -> tuple[str, ...]:
    """Arguments that scvi-tools' trainer and Lightning's take."""
    import lightning
    from scvi.train import Trainer

    names = [*_validate.keyword_names(Trainer.__init__), *_validate.keyword_names(lightning.Trainer.__init__)]
    return tuple(dict.fromkeys(names))
