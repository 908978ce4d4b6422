"""Training of a masked autoencoder on the windows of slides."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from stimage.data import Corpus, DeviceWindowDataModule, SampleUnit, WindowDataModule, WindowSpec, site_limits
from stimage.data.sampling._window_checks import window_concerns
from stimage.models._options import TrainingOptions
from stimage.modules import MaskedAutoencoder, SpotAutoencoder
from stimage.train import MaskedTrainingPlan, OptimizerConfig, TrainingCheckpoints, is_first_process
from stimage.train._fit import Fitted, fit


def training_start(manifest: dict[str, Any], *, history: Any, is_trained: bool, **config: Any) -> dict[str, Any]:
    """What a training starts from, for its checkpoints: a model's configuration and slides; JSON-compatible."""
    slides = manifest["slides"]
    return {
        **config,
        "vocabulary_sha256": manifest["vocabulary_sha256"],
        "adapted_from": manifest.get("adapted_from", ""),
        "n_slides": len(slides),
        "slides": dict(zip(slides["name"], slides["counts_sha256"], strict=True)),
    }


def train_module(
    module: MaskedAutoencoder | SpotAutoencoder,
    corpus: Corpus,
    spec: WindowSpec,
    unit: SampleUnit,
    *,
    optimizer: OptimizerConfig,
    options: TrainingOptions,
    start: dict[str, Any],
    seed: int,
) -> Fitted:
    """Train a module in place.

    Parameters
    ----------
    module
        The module.
    corpus
        Slides on the model's scale.
    spec, unit
        How windows are cut, and what one sample is.
    optimizer, options
        How it is trained.
    start
        What the training starts from, JSON-compatible: checkpoints of a training that starts from something else are refused.
    seed
        Seed of everything random.

    Returns
    -------
    Fitted
        A data frame for each logged loss, the number of tokens seen and the device.
    """
    n_windows = options.n_windows(corpus, spec.window)
    data = (DeviceWindowDataModule if options.sampling == "device" else WindowDataModule)(
        corpus,
        spec,
        batch_size=options.batch_size,
        windows_per_epoch=n_windows,
        validation_size=options.held_out,
        num_workers=options.num_workers,
        seed=seed,
        unit=unit,
    )
    if unit.kind.has_windows and is_first_process():
        concerns = window_concerns(data.training_slides, spec)
        if concerns:
            warnings.warn(" ".join(concerns), UserWarning, stacklevel=3)
    n_steps = math.ceil(math.ceil(n_windows / options.batch_size) / options.accumulate_grad_batches)
    plan = MaskedTrainingPlan(module, optimizer, n_steps=options.max_epochs * n_steps, seed=seed)
    checkpoints = None
    if options.checkpoint_dir is not None:
        decisive = start | options.decisive(n_windows, optimizer.gradient_clip)
        checkpoints = TrainingCheckpoints(
            options.checkpoint_dir, decisive, every_n_epochs=options.checkpoint_every_n_epochs
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.train()
        # Shapes that are known beforehand: a device never waits for the processor to ask how many sites are hidden.
        module.site_limits = site_limits(spec) if options.sampling == "device" else None
        fitted = fit(plan, data, checkpoints=checkpoints, **options.for_trainer(n_windows, optimizer.gradient_clip))
    module.eval()
    return fitted
