"""Reading the JSON of a checkpoint: unaltered, and every value of the kind and size that was written."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from stimage.data.slides._spot_sketch import read_sketch

_CHECKSUM = "config_sha256"
LARGEST_CONFIG = 1 << 28
"""Bytes of a config; that of a model of 10,000 slides has a tenth of it."""
LARGEST_WINDOW = 4096
MISFITS = (LookupError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError)
"""What reading something of another kind or size raises."""
_CHECKED_ELSEWHERE = {"kind", "format_version", "weights_sha256", _CHECKSUM}
_LARGEST_NUMBER = 1 << 31
_LONGEST_TEXT = 10_000
_LONGEST_REASON = 500
_SLIDE = {"name": str, "n_sites": int, "counts_sha256": str, "spot_sketch": str, "donor": str}
_MANIFEST = {"vocabulary_sha256": str, "adapted_from": str, "adapted_epochs": int}
Kind = TypeVar("Kind")


def sealed(config: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON will give it back, numbers of numpy as plain ones, with its checksum."""
    plain = json.loads(json.dumps(config, default=_plain))
    return {**plain, _CHECKSUM: _checksum(plain)}


def check_unaltered(config: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless a config is what its checksum was taken of; those of older checkpoints have none."""
    if _CHECKSUM in config and config[_CHECKSUM] != _checksum(config):
        raise ValueError("config.json was altered: its checksum does not match")


def check_config_size(directory: Path) -> None:
    """Raise ``ValueError`` for a file that would take all memory to read."""
    path = directory / "config.json"
    if path.is_file() and path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(
            f"Checkpoint {str(directory)!r} is damaged: its config.json has {path.stat().st_size} bytes, more than the "
            f"{LARGEST_CONFIG} that a model can have."
        )


def damaged(directory: str | Path, error: Exception) -> ValueError:
    """The error for a checkpoint whose parts do not fit together."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}…"
    return ValueError(
        f"Checkpoint {str(directory)!r} is damaged: its config and weights do not fit ({reason}). Get it again from where "
        "it came from."
    )


def read_dataclass(kind: type[Kind], values: Any, name: str) -> Kind:
    """A dataclass from its fields; tuples are lists in JSON. Fields that came after the checkpoint have their defaults."""
    values = typed(values, dict, name)
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"`{name}` has an entry {unknown[0]!r:.80} that this version of stimage does not know")
    hints = get_type_hints(kind)
    return kind(**{key: typed(value, hints[key], f"{name}.{key}") for key, value in values.items()})


def typed(value: Any, hint: Any, name: str) -> Any:
    """A value of JSON, lists as tuples where these are asked for; raise ``ValueError`` unless it is of a type."""
    if get_origin(hint) is tuple and isinstance(value, list):
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) == len(value):
            return tuple(typed(part, kind, name) for part, kind in zip(value, kinds, strict=True))
    elif _is(value, hint):
        return bool(value) if hint is bool else value
    raise ValueError(f"`{name}` is {_shown(value)}, not {_words(hint)}")


def read_history(values: Any) -> dict[str, pd.DataFrame]:
    """Losses by name."""
    history = {}
    for name, losses in typed(values, dict, "history").items():
        if not all(isinstance(loss, int | float) and not isinstance(loss, bool) for loss in typed(losses, list, name)):
            raise ValueError(f"`history` has losses {name!r:.80} that are not numbers")
        history[name] = pd.DataFrame({name: losses})
    return history


def read_manifest(values: Any) -> dict[str, Any]:
    """What a model was trained on, the slides as a table."""
    values = typed(values, dict, "manifest")
    for name in values.keys() & _MANIFEST:
        typed(values[name], _MANIFEST[name], f"manifest.{name}")
    slides = typed(values["slides"], list, "manifest.slides")
    if not slides:
        raise ValueError("`manifest.slides` is empty")
    for slide in slides:
        for name, kind in _SLIDE.items():
            # A sketch is longer than any other text.
            long = name == "spot_sketch" and isinstance(slide[name], str)
            typed("" if long else slide[name], kind, f"manifest.slides.{name}")
        read_sketch(slide["spot_sketch"])
    return {**values, "slides": pd.DataFrame(slides)}


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
    names = {int: "a whole number below 2**31", float: "a number", str: "a text", bool: "true or false"}
    return f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else names.get(hint, str(hint))
