"""Altered checkpoints whose checksums fit all the same, as someone would make them who knows the format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_config(folder: Path, document: Any) -> None:
    """Write a config with the checksum of what it says."""
    if isinstance(document, dict) and "config_sha256" in document:
        apart = ("kind", "format_version", "weights_sha256", "config_sha256")
        content = {key: value for key, value in document.items() if key not in apart}
        document["config_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(document))
    seal(folder)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    write_config(folder, document)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    edit_config(folder, lambda document: document.update(weights_sha256=sha256(folder / "model.safetensors")))


def seal(folder: Path) -> None:
    """Bring the manifest up to date with the files, where there is one."""
    manifest = folder / "manifest.json"
    if manifest.is_file():
        document = json.loads(manifest.read_text())
        for name, entry in document["files"].items():
            entry |= {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
        manifest.write_text(json.dumps(document))
