from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from stimage import _validate
from stimage._files import lock_file, sync_folder
from stimage._paths import path_of
from stimage.data.corpus._index import (
    INDEX,
    SLIDE_FILE,
    SLIDES,
    CorpusIndex,
    SlideEntry,
    check_notes,
)
from stimage.data.corpus._report import with_sketch
from stimage.data.corpus._slide_file import write_slide
from stimage.data.lattices import LATTICES
from stimage.data.slides._row_matrix import RowMatrix
from stimage.data.slides._slide import Slide
from stimage.data.slides._vocabulary import Vocabulary

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
PARTIAL = ".partial"
TARGET_SUM = 1000.0
"""What models of the default preset train on."""


class CorpusWriter:
    """Builds a corpus on disk slide by slide, with one slide in memory at a time.

    Each slide is written under a temporary name, flushed to the disk and renamed; then the list of slides is replaced. A
    process that is killed leaves a corpus of the slides that were finished, and what it left half-written is removed by
    the next writer. Only one writer at a time may work on a corpus.

    Parameters
    ----------
    path
        Folder of the corpus; made when absent, continued when it holds a corpus.
    genes
        The vocabulary, the names of its genes, or a function that returns one of them, which is called when there is no
        corpus yet. A corpus that is continued must have the same genes.
    target_sum
        Scale that slides are converted to: log1p of counts per this number. Training on another one, as
        ``preset="paper"`` does (10,000), converts every window as it is read.
    notes
        What slides are made with, kept in the corpus. A corpus that is continued must have the same values for these.
    overwrite
        Begin anew: what is there is replaced when the first slides are finished.

    Raises
    ------
    FileExistsError
        If the folder holds something other than a corpus.
    RuntimeError
        If another process writes to the corpus.
    ValueError
        If the corpus there is damaged, or has other genes, another scale or other notes.

    Examples
    --------
    >>> import tempfile
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> (slide,) = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with sti.data.CorpusWriter(f"{folder}/corpus", adata.var_names[:100]) as writer:
    ...         writer.append(slide)
    ...     print(sti.data.Corpus.open(f"{folder}/corpus"))
    Corpus of 1 slides, 302 sites and 100 genes
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        genes: Sequence[str] | np.ndarray | Vocabulary | Callable[[], Sequence[str] | Vocabulary],
        *,
        target_sum: float = TARGET_SUM,
        notes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        _validate.check_path("path", path)
        _validate.check_range("target_sum", target_sum, 0, np.inf)
        notes = check_notes(notes)
        self._folder = path_of(path)
        if not callable(genes):
            genes = _as_vocabulary(genes)
        _check_folder(self._folder)
        (self._folder / SLIDES).mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder)
        try:
            there = (self._folder / INDEX).exists()
            if there and not overwrite:
                self._index = CorpusIndex.read(self._folder)
                self._check_same(None if callable(genes) else genes, float(target_sum), notes)
                self._clean()
            else:
                vocabulary = _as_vocabulary(genes() if callable(genes) else genes)
                self._index = CorpusIndex(vocabulary, float(target_sum), notes)
                # Until the first slides are finished, a corpus that is replaced stays as it is.
                if not there:
                    _remove_orphans(self._folder, overwrite)
                    self._index.write(self._folder)
                    sync_folder(self._folder)
            self._replaces = there and overwrite
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._index.slides)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return self._index.vocabulary

    @property
    def names(self) -> set[str]:
        """Names of the finished slides."""
        return {entry.name for entry in self._index.slides}

    @property
    def origins(self) -> set[str]:
        """What the finished slides came from."""
        return {entry.origin for entry in self._index.slides if entry.origin}

    @property
    def paths(self) -> dict[str, str]:
        """Origin of the finished slides of each path, as far as their details say where they came from."""
        return {entry.details["path"]: entry.origin for entry in self._index.slides if entry.details.get("path")}

    def append(
        self, slides: Slide | Sequence[Slide], *, origin: str = "", details: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Add a slide, or several that count as finished together.

        Parameters
        ----------
        slides
            Slides over the writer's genes, with names that the corpus does not have yet.
        origin
            What they came from. Slides of one origin are taken to be of one AnnData, with observations numbered in it.
        details
            What is known of each slide, for :meth:`Corpus.report`: a dictionary that JSON can hold.

        Raises
        ------
        OSError
            If the disk is full or cannot be written to; nothing of the slides is left.
        ValueError
            If a slide has other genes, a name that is taken, or arrays that do not fit each other.
        """
        _validate.check_text("origin", origin)
        slides = [slides] if isinstance(slides, Slide) else list(slides)
        details = [{}] * len(slides) if details is None else [check_notes(known, "details") for known in details]
        if len(details) != len(slides):
            raise ValueError(f"`details` has {len(details)} entries for {len(slides)} slides: pass one for each.")
        self.append_with_origins([(slide, origin, known) for slide, known in zip(slides, details, strict=True)])

    def append_with_origins(self, slides: Sequence[tuple[Slide, str, Mapping[str, Any]]]) -> None:
        """Add slides of several origins that count as finished together.

        Parameters
        ----------
        slides
            Slides, what they came from and what is known of them, see :meth:`append`.
        """
        if self._lock is None:
            raise ValueError("This writer is closed: open another one.")
        self._check_slides([slide for slide, *_ in slides])
        entries: list[SlideEntry] = []
        try:
            for slide, origin, details in slides:
                number = len(self._index.slides) + len(entries)
                slide = slide.to_target_sum(self._index.target_sum)
                entries.append(replace(self._write(slide, number, origin), details=with_sketch(details, slide)))
            index = replace(self._index, slides=[*self._index.slides, *entries])
            index.write(self._folder)
        except BaseException as error:
            self._remove_unfinished(entries)
            if isinstance(error, OSError) and error.errno is not None:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: slide {slides[min(len(entries), len(slides) - 1)][0].name!r} could not be written. "
                    f"Nothing of it is left, the corpus keeps its {len(self)} finished slides: make room and continue",
                    str(self._folder),
                ) from error
            raise
        self._index = index
        sync_folder(self._folder)
        if self._replaces:
            self._replaces = False
            self._clean()

    def close(self) -> None:
        """Let other processes write to the corpus."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write(self, slide: Slide, number: int, origin: str) -> SlideEntry:
        scratch = self._folder / SLIDES / f"{number:06d}{PARTIAL}"
        scratch.unlink(missing_ok=True)
        try:
            try:
                n_bytes, sha256 = write_slide(scratch, slide)
            except ValueError as error:
                raise ValueError(f"Slide {slide.name!r} cannot be stored: {error}.") from error
            # The checksum in the name: a corpus that is open never reads a slide that took the place of its own.
            file = f"{SLIDES}/{number:06d}-{sha256[:8]}.safetensors"
            os.replace(scratch, self._folder / file)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_folder(self._folder / SLIDES)
        return SlideEntry(slide.name, file, n_bytes, sha256, slide.n_sites, origin)

    def _clean(self) -> None:
        """Remove what earlier writers left, and nothing that is not theirs."""
        finished = {entry.file for entry in self._index.slides}
        for path in (self._folder / SLIDES).iterdir():
            name = f"{SLIDES}/{path.name}"
            if path.name.endswith(PARTIAL) or (SLIDE_FILE.fullmatch(name) and name not in finished):
                path.unlink()

    def _remove_unfinished(self, entries: list[SlideEntry]) -> None:
        """Remove files that the index on disk does not list; the error may have come after it was replaced."""
        try:
            finished = {entry.file for entry in CorpusIndex.read(self._folder).slides}
        except (FileNotFoundError, ValueError):
            finished = set()
        for entry in entries:
            if entry.file not in finished:
                (self._folder / entry.file).unlink(missing_ok=True)

    def _check_same(self, vocabulary: Vocabulary | None, target_sum: float, notes: dict[str, Any]) -> None:
        where, other = f"The corpus {str(self._folder)!r}", "continue it with the same, or choose another `path`"
        if vocabulary is not None and not np.array_equal(vocabulary.genes, self._index.vocabulary.genes):
            raise ValueError(
                f"{where} has other genes (e.g. {_validate.listing(self._index.vocabulary.genes, 3)}) than `genes` (e.g. "
                f"{_validate.listing(vocabulary.genes, 3)}): {other}."
            )
        if target_sum != self._index.target_sum:
            raise ValueError(
                f"{where} has `target_sum`={self._index.target_sum:g}, {target_sum:g} was asked for: {other}."
            )
        before = self._index.notes
        changed = [key for key, value in notes.items() if key not in before or before[key] != value]
        if changed:
            found = ", ".join(f"{key}={before.get(key)!r} instead of {notes[key]!r}" for key in changed)
            raise ValueError(f"{where} was built with {found}: {other}.")

    def _check_slides(self, slides: list[Slide]) -> None:
        taken = self.names
        for slide in slides:
            if not isinstance(slide, Slide):
                raise TypeError(f"`slides` must be Slides, found {type(slide).__name__}.")
            if slide.name in taken:
                raise ValueError(f"The corpus has a slide {slide.name!r} already: give this one another name.")
            taken.add(slide.name)
            try:
                slide.name.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"Slide {slide.name!r} has a name that cannot be written: {error}.") from error
            if not isinstance(slide.expression, RowMatrix | sparse.csr_matrix):
                raise TypeError(
                    f"The expression of slide {slide.name!r} must be a CSR matrix, found {type(slide.expression).__name__}."
                )
            n_genes, expected = slide.expression.shape[1], len(self.vocabulary)
            if n_genes != expected or len(slide.measured) != expected:
                raise ValueError(f"Slide {slide.name!r} has {n_genes} genes, the vocabulary has {expected}.")
            if slide.layout not in LATTICES or slide.raster.ndim != 2:
                raise ValueError(
                    f"Slide {slide.name!r} has layout {slide.layout!r} and a {slide.raster.ndim}-d raster, layouts are "
                    f"{_validate.listing(LATTICES, len(LATTICES))}."
                )


def _as_vocabulary(genes: Sequence[str] | np.ndarray | Vocabulary) -> Vocabulary:
    return genes if isinstance(genes, Vocabulary) else Vocabulary(genes)


def _check_folder(folder: Path) -> None:
    """Raise ``FileExistsError`` when a folder holds something other than a corpus, which a writer could spoil."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file: choose another `path`.")
    own = {LOCK, SLIDES, INDEX, f".{INDEX}{PARTIAL}"}
    foreign = [path.name for path in folder.iterdir() if path.name not in own] if folder.exists() else []
    if foreign and not (folder / INDEX).exists():
        raise FileExistsError(
            f"{str(folder)!r} holds {_validate.listing(foreign, 3)} and is no corpus: choose another `path`."
        )


def _remove_orphans(folder: Path, overwrite: bool) -> None:
    """Remove slides without an index when asked to replace what is there; refuse to guess otherwise."""
    slides = list((folder / SLIDES).iterdir())
    if slides and not overwrite:
        raise FileExistsError(
            f"{str(folder)!r} has slides but no {INDEX}: restore that file, pass `overwrite=True`, or choose another `path`."
        )
    for path in slides:
        path.unlink()


def _locked(folder: Path) -> BaseFileLock:
    """A lock that lasts until it is released or the process ends."""
    try:
        return lock_file(
            folder / LOCK,
            f"Another process writes to the corpus {str(folder)!r}: wait for it to end, or choose another `path`.",
        )
    except (OSError, NotImplementedError) as error:
        raise OSError(
            getattr(error, "errno", None) or errno.ENOLCK,
            f"{error}: the file system cannot lock files, write the corpus elsewhere",
            str(folder),
        ) from error
