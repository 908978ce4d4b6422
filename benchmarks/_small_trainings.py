"""Small trainings at equal terms, scored and stored one by one; for units.py, paper_tables.py and repeatability.py."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.data import SpotDataset, WindowDataset

if TYPE_CHECKING:
    from anndata import AnnData

N_SAMPLES = 64
PROTOCOLS = ("leave_slide_out", "block", "random")


def targets_of_a_sample(model: sti.models.STImage) -> float:
    """Masked values of a training sample over its genes: how many tokens it asks for, mean over some samples."""
    slides = model.corpus.slides
    if model.unit.kind.has_windows:
        samples = WindowDataset(slides, model.spec, seed=0)
    else:
        samples = SpotDataset(slides, model.spec, model.unit, seed=0)
    hidden = (samples[number].hidden for number in range(N_SAMPLES))
    # Whole sites are masked, or single values of sites.
    return float(np.mean([part.sum() if part.ndim == 1 else part.mean(axis=1).sum() for part in hidden]))


def train(model: sti.models.STImage, *, n_steps: int, per_step: int) -> None:
    """Train for some steps, each of some samples."""
    model.train(1, batch_size=per_step, windows_per_epoch=n_steps * per_step, enable_progress_bar=False)


def score(adatas: list[AnnData], rows: dict[str, np.ndarray], *, n_repeats: int = 10) -> dict[str, dict]:
    """Accuracy and ARI of a k-NN head by row, protocol and slide."""
    records = evaluate_domains(
        rows,
        labels=np.concatenate([adata.obs["label"].to_numpy(dtype=object) for adata in adatas]),
        slides=np.concatenate([adata.obs["slide"].to_numpy(dtype=str) for adata in adatas]),
        positions=np.concatenate([adata.obsm["X_grid"] for adata in adatas]),
        protocols=PROTOCOLS,
        heads=["knn"],
        n_repeats=n_repeats,
    )
    records = records[records["slide"] != "pooled"]
    means = records.groupby(["method", "protocol", "slide"])[["accuracy", "ari"]].mean().round(5)
    found: dict[str, dict] = {}
    for (method, protocol, slide), row in means.iterrows():
        found.setdefault(method, {}).setdefault(protocol, {})[slide] = row.to_dict()
    return found


class Records:
    """Scored trainings in a JSON file, which is written after each one; those that are there are not done again.

    Parameters
    ----------
    path
        The file; nothing is written when ``None``.
    facts
        What is noted beside the records. Records that were stored beside other facts are refused.
    """

    def __init__(self, path: Path | None, **facts: Any) -> None:
        self.path, self.facts = path, facts
        self.records: list[dict] = []
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if {name: stored.get(name) for name in facts} != facts:
                raise ValueError(f"{path} was measured with other settings: delete it to measure anew.")
            self.records = stored["records"]

    def has(self, **key: Any) -> bool:
        return any(all(record.get(name) == value for name, value in key.items()) for record in self.records)

    def add(self, **record: Any) -> None:
        self.records.append(record)
        means = {
            protocol: round(float(np.mean([one["accuracy"] for one in slides.values()])), 3)
            for protocol, slides in record["scores"].items()
        }
        print({name: value for name, value in record.items() if name != "scores"}, means, flush=True)
        if self.path is not None:
            versions = {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")}
            content = {**self.facts, "versions": versions, "records": []}
            lines = ",\n".join(json.dumps(one) for one in self.records)
            text = json.dumps(content, indent=1).replace('"records": []', f'"records": [\n{lines}\n ]')
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text + "\n")
