"""Settings of scvi-tools that stimage keeps to: its seed, and its verbosity for progress bars."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def seed_of(seed: int | None) -> int:
    """A seed; ``None`` stands for ``scvi.settings.seed``, or 0 when that is not set."""
    if seed is not None:
        return seed
    from scvi import settings

    return 0 if settings.seed is None else int(settings.seed)


def say(message: str) -> None:
    """Print a line, unless ``scvi.settings.verbosity`` is above INFO."""
    scvi = sys.modules.get("scvi")  # which takes seconds to import, and has its default before that
    verbosity = scvi.settings.verbosity if scvi else None
    if verbosity is None or verbosity <= logging.INFO:
        print(message)


def progress(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Items with a progress bar; without one for a single item, or when ``scvi.settings.verbosity`` is above INFO."""
    scvi = sys.modules.get("scvi")  # importing it for a bar would take 700 MB
    if scvi is None:
        from tqdm.auto import tqdm

        return items if len(items) < 2 else tqdm(items, desc=description, file=sys.stdout)
    from scvi.utils import track

    verbosity = scvi.settings.verbosity
    quiet = len(items) < 2 or (verbosity is not None and verbosity > logging.INFO)
    return track(items, description=description, disable=quiet)
