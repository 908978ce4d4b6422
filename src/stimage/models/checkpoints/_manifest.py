"""The list of a shared model's files and their checksums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stimage import _validate
from stimage._files import sha256_of, written_whole

MANIFEST = "manifest.json"
GENE_ENCODER = "gene_encoder"
MODEL_FILES = ("config.json", "model.safetensors")
GENE_ENCODER_FILES = tuple(f"{GENE_ENCODER}/{name}" for name in MODEL_FILES)
_FORMAT_VERSION = 1
_LARGEST = 1 << 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Note size and checksum of files of a folder."""
    files = {name: {"sha256": sha256_of(folder / name), "size": (folder / name).stat().st_size} for name in names}
    content = {"format_version": _FORMAT_VERSION, "files": files}
    with written_whole(folder / MANIFEST) as (draft,):
        draft.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def listed_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and checksum of the files of a model.

    Names are those of the files that a model can have and of no others, so that none leads out of the folder.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ValueError
        If it is not one, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"No {MANIFEST} in {str(folder)!r}, which `save_pretrained` writes: a folder of `save` is read by `load`."
        )
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes, more than {_LARGEST}")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
        version = content["format_version"]
        if isinstance(version, int) and version > _FORMAT_VERSION:
            raise ValueError(f"it has format version {version:.0e}, newer than {_FORMAT_VERSION}: update stimage")
        if version is True or version != _FORMAT_VERSION or content.keys() != {"format_version", "files"}:
            raise ValueError("it has other entries than a manifest")
        files = {name: (_size(entry), _checksum(entry)) for name, entry in content["files"].items()}
        if set(files) not in (set(MODEL_FILES), {*MODEL_FILES, *GENE_ENCODER_FILES}):
            raise ValueError(f"it lists {_validate.listing((name[:80] for name in files), 5)}")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"{MANIFEST} in {str(folder)!r} is damaged: {str(error)[:300]}. Get the model again from where it came from."
        ) from error
    return files


def check_files(folder: Path) -> None:
    """Raise ``ValueError`` or ``FileNotFoundError`` unless the files of a model are those of its manifest."""
    for name, (size, checksum) in listed_files(folder).items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"No {name} in {str(folder)!r}, which its {MANIFEST} lists: get the model again.")
        if path.stat().st_size != size or sha256_of(path) != checksum:
            raise ValueError(
                f"{name} in {str(folder)!r} is truncated or altered: it is not the file that {MANIFEST} lists. Remove the "
                "folder and get the model again; if that does not help, its source is damaged."
            )


def _size(entry: dict[str, Any]) -> int:
    size = entry["size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError("a size is not a whole number")
    return size


def _checksum(entry: dict[str, Any]) -> str:
    if not isinstance(entry["sha256"], str) or not _SHA256.fullmatch(entry["sha256"]):
        raise ValueError("a checksum is not 64 hexadecimal digits")
    return entry["sha256"]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an entry is there twice")
    return entries
