"""Files that are whole or not there: checksums, writing under another name, and locks."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Files of one folder under other names, moved into place, in this order, when the block ends without an error."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".writing-") as scratch:
        drafts = [Path(scratch) / path.name for path in paths]
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk; an ``OSError`` names the path."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot
            raise
    finally:
        os.close(descriptor)


def lock_file(path: Path, busy: str) -> BaseFileLock:
    """Lock a file, made when absent, until ``release()`` or until the process ends, however it does.

    Raises
    ------
    RuntimeError
        If it is locked already; ``busy`` is what the error says.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RuntimeError(busy) from error
    return lock
