"""Paths as users write them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path


def path_of(value: str | PathLike[str]) -> Path:
    """A path, with ``~`` as the user's home folder."""
    path = Path(value)
    try:
        return path.expanduser()
    except RuntimeError:  # a user without a home folder
        return path
