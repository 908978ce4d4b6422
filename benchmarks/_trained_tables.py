"""Tables of models trained on the slides of a study, for _tables.py."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd
from _speed_tables import table

from stimage.benchmark import paired_bootstrap

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "domains"
COLUMNS = {
    "leave-slide-out accuracy": ("leave_slide_out", "accuracy"),
    "block accuracy": ("block", "accuracy"),
    "random 20/80 accuracy": ("random", "accuracy"),
    "unsupervised ARI": ("unsupervised", "ari"),
}
MANY = 1000
"""Spots from which on a slide is listed as large."""


@cache
def documents() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


@cache
def scores(column: str) -> pd.DataFrame:
    """Scores (slides x closed form and seeds of the training)."""
    protocol, metric = COLUMNS[column]
    records = pd.concat(pd.DataFrame(part["records"], columns=part["columns"]) for part in documents())
    return records[records["protocol"] == protocol].pivot_table(index="slide", columns="method", values=metric)


def summary() -> str:
    lines = {"closed form": [], "trained": []}
    n_spots = {slide: number for part in documents() for slide, number in part["spots"].items()}
    differences: dict[str, list[str]] = {"all": [], "large": [], "small": []}
    header = ["embedding"]
    for column in COLUMNS:
        values = scores(column)
        seeds = values.drop(columns="stimage")
        header.append(f"{column} ({len(values)} slides)")
        lines["closed form"].append(f"{values['stimage'].mean():.3f}")
        means, n_seeds = seeds.mean(), seeds.shape[1]
        lines["trained"].append(f"{means.mean():.3f} ± {means.std():.3f}")
        large = values.index.map(n_spots) >= MANY
        for group, chosen in {"all": large | True, "large": large, "small": ~large}.items():
            differences[group].append(str(paired_bootstrap(seeds.mean(axis=1)[chosen], values["stimage"][chosen])))
    body = [["closed form", *lines["closed form"]], [f"trained, {n_seeds} seeds", *lines["trained"]]]
    names = {"all": "trained less closed form (95 %)", "large": "the same, slides of 1,000 spots and more"}
    names["small"] = "the same, smaller slides"
    return table(header, [*body, *([name, *differences[group]] for group, name in names.items())])


def by_slide() -> str:
    columns = ["leave-slide-out accuracy", "block accuracy", "unsupervised ARI"]
    body = []
    for slide in scores("block accuracy").index:
        row = [slide]
        for column in columns:
            values = scores(column)
            if slide in values.index:
                seeds = values.drop(columns="stimage").loc[slide]
                row.append(f"{values.loc[slide, 'stimage']:.3f} / {seeds.mean():.3f} ± {seeds.std():.3f}")
            else:
                row.append("–")
        body.append(row)
    return table(["slide", *columns], body)


TABLES = {"trained models": summary, "trained models, by slide": by_slide}
