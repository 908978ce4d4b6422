"""Reading the JSON of a checkpoint: unaltered, and every value of the kind and size that was written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from stimage import _validate
from stimage.data import Vocabulary
from stimage.data.corpus._index import vocabulary_hash
from stimage.data.slides._spot_sketch import read_sketch

_CHECKSUM = "config_sha256"
LARGEST_CONFIG = 1 << 28
"""Bytes of a config; that of a model of 10,000 slides has a tenth of it."""
_CHECKED_ELSEWHERE = {"kind", "format_version", "weights_sha256", _CHECKSUM}
_LARGEST_NUMBER = 1 << 31
_LONGEST_TEXT = 10_000
_LONGEST_REASON = 500
_SLIDE = {"name": str, "n_sites": int, "counts_sha256": str, "spot_sketch": str, "donor": str}
_MANIFEST = {"vocabulary_sha256": str, "adapted_from": str, "adapted_epochs": int}
Kind = TypeVar("Kind")


class DamagedError(Exception):
    """A checkpoint is not one that this package wrote. Raised by checks of what the file holds, and by nothing else."""


@contextmanager
def naming_checkpoint(directory: str | Path) -> Iterator[None]:
    """Turn ``DamagedError`` into a ``ValueError`` that names the checkpoint; every other error passes as it is."""
    try:
        yield
    except DamagedError as error:
        reason = str(error)
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}…"
        raise ValueError(
            f"Checkpoint {str(directory)!r} is damaged: its config and weights do not fit ({reason}). Get it again from "
            "where it came from."
        ) from error


def sealed(config: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON will give it back, numbers of numpy as plain ones, with its checksum."""
    plain = json.loads(json.dumps(config, default=_plain))
    return {**plain, _CHECKSUM: _checksum(plain)}


def check_config_size(directory: Path) -> None:
    """Raise ``ValueError`` for a file that would take all memory to read."""
    path = directory / "config.json"
    if path.is_file() and path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(
            f"Checkpoint {str(directory)!r} is damaged: its config.json has {path.stat().st_size} bytes, more than the "
            f"{LARGEST_CONFIG} that a model can have."
        )


class StoredConfig:
    """Values of a config, each checked when it is asked for.

    Parameters
    ----------
    values
        The JSON object.

    Raises
    ------
    DamagedError
        If it is not what its checksum was taken of; so does every method for a value that is missing or of another kind.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        try:
            checksum = _checksum(values)
        except RecursionError as error:
            raise DamagedError("config.json is nested too deeply") from error
        if values.get(_CHECKSUM) != checksum:
            raise DamagedError("config.json was altered: its checksum does not match")
        self.values = values

    def get(self, name: str, hint: Any) -> Any:
        """A value of a type; lists as tuples where these are asked for."""
        return typed(entry(self.values, name), hint, name)

    def optional(self, name: str, hint: Any) -> Any:
        """A value of a type, or None."""
        return None if entry(self.values, name) is None else self.get(name, hint)

    def dataclass(self, name: str, kind: type[Kind]) -> Kind:
        """A configuration, which checks itself."""
        values, hints = self.get(name, dict), get_type_hints(kind)
        known = [field.name for field in fields(kind)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise DamagedError(f"`{name}` has an entry {unknown[0]!r:.80} that this version of stimage does not know")
        parts = {key: typed(entry(values, key), hints[key], f"{name}.{key}") for key in known}
        return accepted(kind, **parts)

    def vocabulary(self) -> Vocabulary:
        """The genes."""
        genes, ids = self.get("genes", list), self.get("ensembl_ids", dict)
        for part in (genes, [*ids, *ids.values()]):
            if not all(isinstance(name, str) for name in part):
                raise DamagedError("`genes` or `ensembl_ids` hold something other than names")
        return accepted(Vocabulary, genes, ids)

    def seed(self) -> int:
        """The seed."""
        seed = entry(self.values, "seed")
        accepted(_validate.check_seed, seed)
        return seed

    def n_tokens_seen(self) -> int:
        """How many spots the model was trained on, repeated ones included; of a long training above 2**31."""
        number = entry(self.values, "n_tokens_seen")
        accepted(_validate.check_positive, "n_tokens_seen", number, smallest=0)
        return number

    def history(self) -> dict[str, pd.DataFrame]:
        """Losses by name."""
        history = {}
        for name, losses in self.get("history", dict).items():
            if not all(
                isinstance(loss, int | float) and not isinstance(loss, bool) for loss in typed(losses, list, name)
            ):
                raise DamagedError(f"`history` has losses {name!r:.80} that are not numbers")
            history[name] = pd.DataFrame({name: losses})
        return history

    def manifest(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What a model was trained on, the slides as a table."""
        values = self.get("manifest", dict)
        for name in values.keys() & _MANIFEST:
            typed(values[name], _MANIFEST[name], f"manifest.{name}")
        slides = typed(entry(values, "slides"), list, "manifest.slides")
        if not slides:
            raise DamagedError("`manifest.slides` is empty")
        for slide in slides:
            typed(slide, dict, "manifest.slides")
            for name, kind in _SLIDE.items():
                # A sketch is longer than any other text.
                long = name == "spot_sketch" and isinstance(slide.get(name), str)
                typed("" if long else entry(slide, name), kind, f"manifest.slides.{name}")
            accepted(read_sketch, slide["spot_sketch"])
        if accepted(vocabulary_hash, vocabulary.genes) != entry(values, "vocabulary_sha256"):
            raise DamagedError("the checksum of the gene names does not match")
        return {**values, "slides": pd.DataFrame(slides)}


def losses_by_name(history: Mapping[str, pd.DataFrame]) -> dict[str, list[float]]:
    """Losses of a history, JSON-compatible."""
    return {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in history.items()}


def accepted(check: Callable[..., Kind], *values: Any, **options: Any) -> Kind:
    """What a check or a constructor that checks its arguments makes of stored values; ``DamagedError`` if it refuses them."""
    try:
        return check(*values, **options)
    except (TypeError, ValueError) as error:
        raise DamagedError(str(error)) from error


def entry(values: dict[str, Any], name: str) -> Any:
    """An entry of a JSON object."""
    if name not in values:
        raise DamagedError(f"{name!r} is missing")
    return values[name]


def typed(value: Any, hint: Any, name: str) -> Any:
    """A value of JSON, lists as tuples where these are asked for; raise ``DamagedError`` unless it is of a type."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis and isinstance(value, list):
            kinds = kinds[:1] * len(value)
        if isinstance(value, list) and len(kinds) == len(value):
            return tuple(typed(part, kind, name) for part, kind in zip(value, kinds, strict=True))
    elif _is(value, hint):
        return bool(value) if hint is bool else value
    raise DamagedError(f"`{name}` is {_shown(value)}, not {_words(hint)}")


def _checksum(config: dict[str, Any]) -> str:
    """SHA-256 of what a config says, however its JSON is laid out."""
    content = {name: value for name, value in config.items() if name not in _CHECKED_ELSEWHERE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _is(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is(value, part) for part in get_args(hint))
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < _LARGEST_NUMBER and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_NUMBER
    if hint is bool:
        return isinstance(value, int) and value in (0, 1)  # as options may have been given
    if hint is str:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT
    return isinstance(value, hint)


def _shown(value: Any) -> str:
    """A value for a message, short and whatever it holds."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else ascii(value)[:80]


def _words(hint: Any) -> str:
    names = {
        int: "a whole number below 2**31",
        float: "a number",
        str: f"a text of at most {_LONGEST_TEXT} characters",
        bool: "true or false",
    }
    return f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else names.get(hint, str(hint))
