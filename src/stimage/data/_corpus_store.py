"""A corpus as a folder: written at once, opened, verified."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stimage import _validate
from stimage.data._corpus_index import INDEX, CorpusIndex
from stimage.data._corpus_writer import CorpusWriter
from stimage.data._slide import Slide
from stimage.data._slide_file import read_slide

if TYPE_CHECKING:
    from stimage.data._corpus import Corpus


def write_corpus(corpus: Corpus, path: str | os.PathLike[str], *, target_sum: float, overwrite: bool) -> None:
    """Write a corpus to a folder, all of it or nothing."""
    _validate.check_path("path", path)
    there = (Path(path) / INDEX).exists()
    if there and not overwrite and CorpusIndex.read(Path(path)).slides:
        raise FileExistsError(
            f"{str(path)!r} holds a corpus already: pass `overwrite=True` to replace it, or add to it with "
            "`stimage.data.CorpusWriter`."
        )
    with CorpusWriter(path, corpus.vocabulary, target_sum=target_sum, overwrite=there) as writer:
        writer.append_with_origins(
            [(slide, f"AnnData {source}") for slide, source in zip(corpus, corpus.source, strict=True)]
        )


def open_slides(path: str | os.PathLike[str]) -> tuple[CorpusIndex, list[Slide]]:
    """Index and slides of a corpus, all but their expression."""
    _validate.check_path("path", path)
    folder = Path(path)
    index = CorpusIndex.read(folder)
    if not index.slides:
        raise ValueError(
            f"The corpus {str(folder)!r} has no slide: building it was not begun, or stopped at the first."
        )
    slides = []
    for entry in index.slides:
        try:
            if (folder / entry.file).stat().st_size != entry.bytes:
                raise ValueError(f"the file does not have its {entry.bytes} bytes")
            slide = read_slide(folder / entry.file, n_genes=len(index.vocabulary))
            if (slide.name, slide.n_sites, slide.target_sum) != (entry.name, entry.n_sites, index.target_sum):
                raise ValueError(f"the file is not the one that {INDEX} describes")
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
        slides.append(slide)
    return index, slides


def verify_corpus(path: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` unless every byte of a corpus is as it was written."""
    _validate.check_path("path", path)
    folder = Path(path)
    index = CorpusIndex.read(folder)
    damaged = [entry for entry in index.slides if _sha256(folder / entry.file) != entry.sha256]
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(index.slides)} slides of the corpus {str(folder)!r} are damaged or missing: "
            f"{_validate.listing([f'{entry.name} ({entry.file})' for entry in damaged], 5)}. Restore these files from a "
            "copy, or build the corpus again."
        )
    open_slides(folder)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
