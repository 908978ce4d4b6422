"""Folders of HEST-Bench: tasks, folds, and the patches and counts of samples."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys, _validate

if TYPE_CHECKING:
    from anndata import AnnData

Targets = Literal["raw", "normalised"]
_COLUMNS = ("sample_id", "patches_path", "expr_path")
_BARCODES = ("barcode", "barcodes")
_COUNTS_PER_SPOT = 1e4


@dataclass(frozen=True)
class HestSample:
    """One sample of a task.

    Parameters
    ----------
    name
        Its ``sample_id``.
    patches_path
        H5 file with ``img`` (spots x rows x columns x 3, uint8), ``barcode`` and ``coords`` of the spots.
    expr_path
        AnnData with raw counts.
    """

    name: str
    patches_path: Path
    expr_path: Path

    @cached_property
    def barcodes(self) -> list[str]:
        """Names of the spots that have a patch, in the order of the patches."""
        import h5py

        with h5py.File(self.patches_path) as file:
            key = next((key for key in _BARCODES if key in file), None)
            if key is None or "img" not in file:
                raise ValueError(
                    f"{str(self.patches_path)!r} has {_validate.listing(file.keys())}: 'img' and 'barcode' are needed."
                )
            names = np.asarray(file[key]).ravel()
            if len(names) != len(file["img"]):
                raise ValueError(
                    f"{str(self.patches_path)!r} has {len(file['img'])} patches and {len(names)} barcodes."
                )
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]

    @cached_property
    def adata(self) -> AnnData:
        """Counts of the spots that have a patch, in the order of the patches."""
        import anndata

        adata = anndata.read_h5ad(self.expr_path)
        missing = sorted(set(self.barcodes) - set(adata.obs_names))
        if missing:
            raise ValueError(
                f"{str(self.expr_path)!r} has no {_validate.listing(missing, 3)}: {len(missing)} of {len(self.barcodes)} "
                f"spots of {str(self.patches_path)!r} have no counts."
            )
        return adata[self.barcodes].copy()

    def patches(self, batch_size: int):
        """Patches (batch x rows x columns x 3, uint8), a batch at a time."""
        import h5py

        with h5py.File(self.patches_path) as file:
            pixels = file["img"]
            for start in range(0, len(pixels), batch_size):
                yield np.asarray(pixels[start : start + batch_size])

    def expression(self, genes: list[str], targets: Targets) -> np.ndarray:
        """log1p of raw counts, or of counts per 10,000 of all genes of a spot (spots x genes)."""
        missing = [gene for gene in genes if gene not in self.adata.var_names]
        if missing:
            raise ValueError(
                f"{str(self.expr_path)!r} has no {_validate.listing(missing, 5)} of the genes of the task."
            )
        counts = _validate.check_counts(self.adata, None)
        part = counts[:, self.adata.var_names.get_indexer(genes)]
        part = (part.toarray() if sparse.issparse(part) else np.asarray(part)).astype(np.float64)
        if targets == "normalised":
            total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
            part = part * (_COUNTS_PER_SPOT / np.maximum(total, 1))[:, None]
        return np.log1p(part)

    def slide(self) -> AnnData:
        """The sample with an image put together from its patches, for methods that look at more than one patch.

        ``coords`` are the patches' upper left corners in the pixels of ``obsm["spatial"]``, which says how wide they are.
        """
        import h5py

        adata = self.adata.copy()
        adata.obs["slide"] = self.name
        centres = _validate.check_spatial(adata, _keys.SPATIAL)
        with h5py.File(self.patches_path) as file:
            corners = np.asarray(file["coords"], dtype=np.float64) if "coords" in file else np.full((1, 2), np.nan)
            half = np.median(centres - corners) if corners.shape == centres.shape else np.nan
            if not half > 0 or np.abs(centres - corners - half).max() > 0.05 * half + 2:
                raise ValueError(
                    f"{str(self.patches_path)!r}: 'coords' are not the upper left corners of squares around "
                    "obsm['spatial'], so the patches cannot be put together to an image."
                )
            side = file["img"].shape[1]
            scale = side / (2 * half)
            placed = np.rint(corners * scale).astype(int)
            origin = placed.min(axis=0)
            columns, rows = placed.max(axis=0) - origin + side
            canvas = np.full((rows, columns, 3), 255, dtype=np.uint8)
            for (x, y), pixels in zip(placed - origin, file["img"], strict=True):
                canvas[y : y + side, x : x + side] = pixels
        adata.obsm[_keys.SPATIAL] = centres - origin / scale
        scales = {"tissue_hires_scalef": float(scale)}
        adata.uns[_keys.SPATIAL] = {self.name: {"images": {"hires": canvas}, "scalefactors": scales}}
        return adata


@dataclass(frozen=True)
class HestFold:
    """One split of a task.

    Parameters
    ----------
    task
        Name of its folder.
    number
        Number of the split.
    train, test
        Samples.
    genes
        Genes to predict.
    targets
        ``"raw"`` or ``"normalised"``.
    """

    task: str
    number: int
    train: list[HestSample]
    test: list[HestSample]
    genes: list[str]
    targets: Targets
    _expression: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def expression(self, samples: list[HestSample]) -> np.ndarray:
        """Targets of samples, spot after spot (spots x genes)."""
        for sample in samples:
            if sample.name not in self._expression:
                self._expression[sample.name] = sample.expression(self.genes, self.targets)
        return np.concatenate([self._expression[sample.name] for sample in samples])


def read_folds(folder: Path, gene_file: str, targets: Targets) -> list[HestFold]:
    """Folds of a task's folder; all files that they name are there, and no sample is on both sides."""
    splits = folder / "splits"
    numbers = sorted(
        int(found[1]) for path in splits.glob("train_*.csv") if (found := re.fullmatch(r"train_(\d+)\.csv", path.name))
    )
    genes = folder / gene_file
    if not numbers or not genes.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is no task of HEST-Bench: splits/train_0.csv, splits/test_0.csv and {gene_file} are needed."
        )
    names = json.loads(genes.read_text(encoding="utf-8"))["genes"]
    samples: dict[str, HestSample] = {}
    folds = []
    for number in numbers:
        sides = {}
        for side in ("train", "test"):
            path = splits / f"{side}_{number}.csv"
            if not path.is_file():
                raise FileNotFoundError(f"{str(path)!r} is not there, and train_{number}.csv is.")
            table = pd.read_csv(path, dtype=str)
            if not set(_COLUMNS) <= set(table.columns):
                raise ValueError(
                    f"{str(path)!r} has columns {_validate.listing(table.columns)}: {_COLUMNS} are needed."
                )
            sides[side] = [
                samples.setdefault(row.sample_id, _sample(folder, row.sample_id, row.patches_path, row.expr_path))
                for row in table.itertuples()
            ]
        shared = sorted({sample.name for sample in sides["train"]} & {sample.name for sample in sides["test"]})
        if shared or not all(sides.values()):
            raise ValueError(
                f"Split {number} of {folder.name!r} trains on {_validate.listing(shared)} that it tests on."
            )
        folds.append(HestFold(folder.name, number, sides["train"], sides["test"], names, targets))
    return folds


def _sample(folder: Path, name: str, patches_path: str, expr_path: str) -> HestSample:
    sample = HestSample(name, folder / patches_path, folder / expr_path)
    for path in (sample.patches_path, sample.expr_path):
        if not path.is_file():
            raise FileNotFoundError(f"{str(path)!r}, which a split of {folder.name!r} names, is not there.")
    return sample
