"""Paths as users write them, and folders for caches where neither the installation nor the user's home can be written to."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from os import PathLike
from pathlib import Path


def path_of(value: str | PathLike[str]) -> Path:
    """A path, with ``~`` as the user's home folder."""
    path = Path(value)
    try:
        return path.expanduser()
    except RuntimeError:  # a user without a home folder
        return path


def user_cache() -> Path:
    """Folder for the user's caches; one beside temporary files for a user without a home."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"cache-{getattr(os, 'getuid', int)()}"
    return Path(home) / "stimage"


def give_numba_a_cache() -> None:
    """Let numba keep compiled functions until the process ends where it finds no folder; it fails on import otherwise."""
    if "NUMBA_CACHE_DIR" in os.environ or _can_write(Path(__file__).parent):
        return
    if _can_write(user_cache().parent / "numba"):
        return
    folder = tempfile.mkdtemp(prefix="stimage-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder


def _can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
