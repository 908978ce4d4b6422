"""Tables of the leaderboard of hidden regions, for _tables.py."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd

from stimage.benchmark import paired_bootstrap, region_task

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "region_task"
REFERENCE = "inverse distance"
METRICS = ("mse", "excess", "pearson", "coverage", "width")


@cache
def documents() -> list[dict]:
    """Results of the task's version, one for each method."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [document for document in found if document["task_version"] == region_task().version]


@cache
def scores() -> pd.DataFrame:
    """Means over the regions of each slide and method."""
    parts = [pd.DataFrame(document["records"], columns=document["columns"]) for document in documents()]
    # A method without bounds has columns of nothing.
    records = pd.concat([part.astype(dict.fromkeys(METRICS, float)) for part in parts], ignore_index=True)
    return records.groupby(["method", "slide"])[[*METRICS, "floor"]].mean()


def board(slides: list[str]) -> str:
    """Methods that were scored on all of these slides, the least excess first."""
    values = scores().loc[lambda table: table.index.get_level_values("slide").isin(slides)]
    whole = values.groupby("method").size() == len(slides)
    means = values.groupby("method")[list(METRICS)].mean()[whole].sort_values("excess")
    reference = values.loc[REFERENCE].loc[slides, "excess"]
    lines = [
        f"| method | squared error | excess | less {REFERENCE} (95 %) | Pearson | within 90 % bounds | width |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, row in means.iterrows():
        gap = "–" if method == REFERENCE else str(paired_bootstrap(values.loc[method].loc[slides, "excess"], reference))
        cells = [f"{row['mse']:.4f}", f"{row['excess']:.4f}", gap]
        cells += ["–" if pd.isna(row[metric]) else f"{row[metric]:.3f}" for metric in METRICS[2:]]
        lines.append("| " + " | ".join([method, *cells]) + " |")
    return "\n".join(lines)


def by_slide() -> str:
    table = scores()["excess"].unstack("method")
    order = scores()["excess"].groupby("method").mean().sort_values().index
    lines = ["| slide | noise floor | " + " | ".join(order) + " |", "|" + "---|" * (len(order) + 2)]
    for slide in [slide.name for slide in region_task().slides]:
        floor = scores()["floor"].xs(slide, level="slide").mean()
        cells = ["–" if pd.isna(table.loc[slide, method]) else f"{table.loc[slide, method]:.4f}" for method in order]
        lines.append("| " + " | ".join([slide, f"{floor:.4f}", *cells]) + " |")
    return "\n".join(lines)


def groups() -> dict[str, list[str]]:
    """All slides, and those that every method was scored on."""
    table = scores()["excess"].unstack("method")
    return {"all slides": list(table.index), "slides of every method": list(table.index[table.notna().all(axis=1)])}


def notes() -> str:
    said = [f"- {document['method']}: {document['about']}." for document in documents() if document["about"]]
    return "\n".join(said) or "None."


TABLES = {
    "hidden regions, all slides": lambda: board(groups()["all slides"]),
    "hidden regions, slides of every method": lambda: board(groups()["slides of every method"]),
    "hidden regions, by slide": by_slide,
    "hidden regions, notes": notes,
}
