"""The file corpus.json: vocabulary and list of slides, with checksums."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stimage._files import write_durably
from stimage.data.slides._vocabulary import Vocabulary

INDEX = "corpus.json"
SLIDES = "slides"
FORMAT_VERSION = 1
SLIDE_FILE = re.compile(r"slides/[0-9]{6,}-[0-9a-f]{8}\.safetensors")
_PARTS = {"format", "version", "genes", "ensembl_ids", "vocabulary_sha256", "target_sum", "notes", "slides"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADVICE = "restore it from a copy, or build the corpus again"


@dataclass(frozen=True)
class SlideEntry:
    """A slide of a corpus on disk."""

    name: str
    file: str
    bytes: int
    sha256: str
    n_sites: int
    origin: str
    details: dict[str, Any] = field(default_factory=dict)
    """What is known of the slide beside its arrays, for :meth:`Corpus.report`."""


@dataclass(frozen=True)
class CorpusIndex:
    """What a corpus on disk consists of."""

    vocabulary: Vocabulary
    target_sum: float
    notes: dict[str, Any] = field(default_factory=dict)
    slides: list[SlideEntry] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The index as JSON that holds its own checksum."""
        genes = self.vocabulary.genes.tolist()
        body = {
            "format": "stimage corpus",
            "version": FORMAT_VERSION,
            "genes": genes,
            "ensembl_ids": self.vocabulary.ensembl_ids,
            "vocabulary_sha256": vocabulary_hash(genes),
            "target_sum": self.target_sum,
            "notes": self.notes,
            "slides": [asdict(entry) for entry in self.slides],
        }
        return _canonical({**body, "checksum": _checksum(body)})

    @classmethod
    def read(cls, folder: Path) -> CorpusIndex:
        """Read and check the index of a corpus.

        Raises
        ------
        FileNotFoundError
            If the folder has none.
        ValueError
            If it is damaged or of another version.
        """
        path = folder / INDEX
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(
                f"No corpus in {str(folder)!r}: it has no {INDEX}. Write one with `stimage.pp.build_corpus` or "
                "`stimage.data.Corpus.write`."
            ) from error
        try:
            document = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is damaged, it is not JSON ({error!s:.200}): {_ADVICE}.") from error
        if not isinstance(document, dict) or document.get("format") != "stimage corpus":
            raise ValueError(f"{str(path)!r} is not the index of a corpus that stimage wrote.")
        version = document.get("version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise ValueError(
                f"The corpus {str(folder)!r} has format version {version!r:.50}, this version of stimage "
                f"reads {FORMAT_VERSION}: update stimage."
            )
        try:
            if document.pop("checksum", None) != _checksum(document):
                raise ValueError("its checksum does not match")
            return cls(**_parts(document))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is damaged ({error!s:.300}): {_ADVICE}.") from error

    def write(self, folder: Path) -> None:
        """Put the index in place of the one that is there, all at once."""
        scratch = folder / f".{INDEX}.partial"
        try:
            write_durably(scratch, self.to_bytes())
            os.replace(scratch, folder / INDEX)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise


def vocabulary_hash(genes: Sequence[str]) -> str:
    """SHA-256 of gene names in their order."""
    return hashlib.sha256("\n".join(genes).encode()).hexdigest()


def check_notes(notes: Mapping[str, Any] | None, parameter: str = "notes") -> dict[str, Any]:
    """Return notes as a dictionary; raise ``TypeError`` unless JSON gives them back as they are."""
    notes = {} if notes is None else notes
    try:
        same = isinstance(notes, Mapping) and json.loads(json.dumps(dict(notes), allow_nan=False)) == dict(notes)
    except (TypeError, ValueError):
        same = False
    if not same:
        raise TypeError(f"`{parameter}` must be a dictionary of texts, numbers and lists, which JSON can hold.")
    return dict(notes)


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Checked parts of an index; a checksum is no proof that stimage wrote it."""
    more = sorted(document.keys() - _PARTS)
    if more:
        raise ValueError(f"it has parts of unknown meaning: {more!s:.100}")
    genes, ids = document["genes"], document["ensembl_ids"]
    if not isinstance(genes, list) or not isinstance(ids, dict):
        raise TypeError("genes must be a list and ensembl_ids an object")
    vocabulary = Vocabulary(genes, ids)
    if vocabulary_hash(genes) != document["vocabulary_sha256"]:
        raise ValueError("the checksum of the gene names does not match")
    target_sum = document["target_sum"]
    if not isinstance(target_sum, float) or not 0 < target_sum < math.inf:
        raise ValueError(f"target_sum is {target_sum!r:.50}")
    if not isinstance(document["notes"], dict) or not isinstance(document["slides"], list):
        raise TypeError("notes must be an object and slides a list")
    slides = [_entry(entry) for entry in document["slides"]]
    for what in ("name", "file"):
        values = [getattr(entry, what) for entry in slides]
        if len(set(values)) < len(values):
            raise ValueError(f"several slides have the same {what}")
    return {"vocabulary": vocabulary, "target_sum": target_sum, "notes": document["notes"], "slides": slides}


def _entry(entry: object) -> SlideEntry:
    if not isinstance(entry, dict):
        raise TypeError("each slide must be an object")
    slide = SlideEntry(**entry)
    for key in ("name", "file", "sha256", "origin"):
        if not isinstance(getattr(slide, key), str):
            raise TypeError(f"{key} of a slide is no text")
        getattr(slide, key).encode()  # raises for half of a surrogate pair, which nothing can print
    for key in ("bytes", "n_sites"):
        value = getattr(slide, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} of slide {slide.name!r:.50} is {value!r:.50}")
    if not isinstance(slide.details, dict):
        raise TypeError(f"details of slide {slide.name!r:.50} are no object")
    # Nothing outside of the corpus is ever opened, whatever the index says.
    if not SLIDE_FILE.fullmatch(slide.file):
        raise ValueError(f"slide {slide.name!r:.50} has the file name {slide.file!r:.100}")
    if not _SHA256.fullmatch(slide.sha256):
        raise ValueError(f"slide {slide.name!r:.50} has no checksum")
    return slide
