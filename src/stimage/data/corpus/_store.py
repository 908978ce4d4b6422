"""A corpus as a folder: written at once, opened, verified."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stimage import _validate
from stimage._files import sha256_of
from stimage._paths import path_of
from stimage.data.corpus._index import INDEX, CorpusIndex, SlideEntry
from stimage.data.corpus._slide_file import check_contents, read_slide
from stimage.data.corpus._writer import CorpusWriter
from stimage.data.slides._slide import Slide
from stimage.data.slides._vocabulary import Vocabulary


def write_corpus(
    path: str | os.PathLike[str],
    vocabulary: Vocabulary,
    slides: Sequence[tuple[Slide, str, Mapping[str, Any]]],
    *,
    target_sum: float,
    overwrite: bool,
) -> None:
    """Write slides, with what they came from and what is known of them, to a folder, all of it or nothing."""
    _validate.check_path("path", path)
    there = (path_of(path) / INDEX).exists()
    if there and not overwrite and CorpusIndex.read(path_of(path)).slides:
        raise FileExistsError(
            f"{str(path)!r} holds a corpus already: pass `overwrite=True` to replace it, or add to it with "
            "`stimage.data.CorpusWriter`."
        )
    with CorpusWriter(path, vocabulary, target_sum=target_sum, overwrite=there) as writer:
        writer.append_with_origins(slides)


def open_slides(path: str | os.PathLike[str]) -> tuple[CorpusIndex, list[Slide]]:
    """Index and slides of a corpus, all but their expression."""
    _validate.check_path("path", path)
    folder = path_of(path)
    index = CorpusIndex.read(folder)
    if not index.slides:
        raise ValueError(
            f"The corpus {str(folder)!r} has no slide: building it was not begun, or stopped at the first."
        )
    slides = []
    for entry in index.slides:
        with _naming(folder, entry):
            if not _is_whole(folder, entry):
                raise ValueError(f"the file does not have its {entry.bytes} bytes")
            slide = read_slide(folder / entry.file, n_genes=len(index.vocabulary))
            if (slide.name, slide.n_sites, slide.target_sum) != (entry.name, entry.n_sites, index.target_sum):
                raise ValueError(f"the file is not the one that {INDEX} describes")
        slides.append(slide)
    return index, slides


def verify_corpus(path: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` unless every byte of a corpus is as it was written, and what it says can be."""
    _validate.check_path("path", path)
    folder = path_of(path)
    index = CorpusIndex.read(folder)
    damaged = [entry for entry in index.slides if _sha256(folder, entry) != entry.sha256]
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(index.slides)} slides of the corpus {str(folder)!r} are damaged or missing: "
            f"{_validate.listing([f'{entry.name} ({entry.file})' for entry in damaged], 5)}. Restore these files from a "
            "copy, or build the corpus again."
        )
    for entry, slide in zip(index.slides, open_slides(folder)[1], strict=True):
        with _naming(folder, entry):
            check_contents(slide)


@contextmanager
def _naming(folder: Path, entry: SlideEntry) -> Iterator[None]:
    """Say which slide of a corpus an error is about."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The corpus {str(folder)!r} lacks slide {entry.name!r}, file {entry.file!r}: restore it from a copy, or "
            "build the corpus again."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"The corpus {str(folder)!r} is damaged, slide {entry.name!r}, file {entry.file!r}: {error}. Restore it "
            "from a copy, or build the corpus again."
        ) from error


def _is_whole(folder: Path, entry: SlideEntry) -> bool:
    """Whether a slide is a file, and no folder or pipe that reading would wait for, of the right size."""
    found = (folder / entry.file).stat()
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.bytes


def _sha256(folder: Path, entry: SlideEntry) -> str:
    try:
        if not _is_whole(folder, entry):
            return ""
        return sha256_of(folder / entry.file)
    except FileNotFoundError:
        return ""
