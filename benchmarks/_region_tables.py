"""The leaderboard of hidden regions, written from the stored results."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pandas as pd

from stimage.benchmark import paired_bootstrap, region_task

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "region_task"
PAGE = ROOT / "docs" / "region_leaderboard.md"
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
    records = pd.concat(parts, ignore_index=True)
    return records.groupby(["method", "slide"])[[*METRICS, "floor", "seconds"]].mean()


def board(slides: list[str]) -> str:
    """Methods that were scored on all of these slides, the least excess first."""
    values = scores().loc[lambda table: table.index.get_level_values("slide").isin(slides)]
    whole = values.groupby("method").size() == len(slides)
    means = values.groupby("method")[[*METRICS, "seconds"]].mean()[whole].sort_values("excess")
    reference = values.loc[REFERENCE].loc[slides, "excess"]
    lines = [
        f"| method | squared error | excess | less {REFERENCE} (95 %) | Pearson | within 90 % bounds | width | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, row in means.iterrows():
        gap = "–" if method == REFERENCE else str(paired_bootstrap(values.loc[method].loc[slides, "excess"], reference))
        cells = [f"{row['mse']:.4f}", f"{row['excess']:.4f}", gap]
        cells += ["–" if pd.isna(row[metric]) else f"{row[metric]:.3f}" for metric in METRICS[2:]]
        lines.append("| " + " | ".join([method, *cells, f"{row['seconds']:.1f}"]) + " |")
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


def write_page() -> None:
    """Fill in the tables of the page."""
    chosen = groups()
    tables = {
        "all slides": board(chosen["all slides"]),
        "slides of every method": board(chosen["slides of every method"]),
        "by slide": by_slide(),
        "notes": notes(),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = re.sub(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
            lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
    PAGE.write_text(text, encoding="utf-8")
