"""Progress bars, in scvi-tools' style and at its verbosity."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Items with a progress bar; without one for a single item, or when ``scvi.settings.verbosity`` is above INFO."""
    from scvi import settings
    from scvi.utils import track

    quiet = len(items) < 2 or (settings.verbosity is not None and settings.verbosity > logging.INFO)
    return track(items, description=description, disable=quiet)
