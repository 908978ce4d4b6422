"""Tables of the scoreboard, for _tables.py."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd
from _speed_tables import table

from stimage.benchmark import paired_bootstrap

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "scoreboard"
COLUMNS = {
    "leave-slide-out accuracy": ("leave_slide_out", "knn", "accuracy"),
    "the same, inductive": ("leave_slide_out_inductive", "knn", "accuracy"),
    "block accuracy": ("block", "knn", "accuracy"),
    "random 20/80 accuracy": ("random", "knn", "accuracy"),
    "unsupervised ARI": ("unsupervised", "true_number", "ari"),
    "ARI, number estimated": ("unsupervised", "estimated_number", "ari"),
    "ARI, mixtures (10 seeds)": ("unsupervised", "true_number_gmm", "ari"),
}
OURS = "stimage"
SHORT = (
    "coordinates only",
    "per 1,000, 30 axes, mean of 19",
    "axes of the closed form, mean of 19",
    "NichePCA",
    "untrained model, mean of 19",
    OURS,
)
NOT_AVERAGES = ("coordinates only", "one spot")


@cache
def scores(column: str) -> pd.DataFrame:
    """Scores (slides x methods) of a column."""
    protocol, head, metric = COLUMNS[column]
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        document = json.loads(path.read_text())
        parts.append(pd.DataFrame(document["records"], columns=document["columns"]))
    records = pd.concat(parts)
    records = records[(records["protocol"] == protocol) & (records["head"] == head)]
    return records.pivot_table(index="slide", columns="method", values=metric)


def best_average(column: str) -> str:
    """The plain average with the highest mean over slides."""
    means = scores(column).mean()
    plain = [m for m in means.index if not m.startswith(OURS) and "alone" not in m and not m.endswith(NOT_AVERAGES)]
    return str(means[plain].idxmax())


def cells(method: str, columns: list[str]) -> list[str]:
    found = []
    for column in columns:
        values = scores(column)
        whole = method in values and values[method].notna().all()
        found.append(f"{values[method].mean():.3f}" if whole else "–")
    return found


def difference(column: str) -> str:
    values = scores(column)
    return str(paired_bootstrap(values[OURS], values[best_average(column)]))


def header(columns: list[str]) -> list[str]:
    return ["embedding", *(f"{column} ({len(scores(column))} slides)" for column in columns)]


def of_rows(methods: list[str], columns: list[str]) -> str:
    body = [[method, *cells(method, columns)] for method in methods]
    body.append(["stimage less the best average (95 %)", *(difference(column) for column in columns)])
    return table(header(columns), body)


def summary() -> str:
    columns = ["leave-slide-out accuracy", "block accuracy", "random 20/80 accuracy", "unsupervised ARI"]
    return of_rows([method for method in SHORT if method in scores("block accuracy")], columns)


def whole() -> str:
    methods = list(scores("unsupervised ARI").columns)
    first = [m for m in ("coordinates only",) if m in methods]
    last = [m for m in methods if m.startswith(OURS)]
    return of_rows([*first, *(m for m in methods if m not in [*first, *last]), *last], list(COLUMNS))


def best_rows() -> str:
    body = []
    for column in COLUMNS:
        values, best = scores(column), best_average(column)
        body.append([column, best, f"{values[best].mean():.3f}", f"{values[OURS].mean():.3f}", difference(column)])
    return table(["column", "best average", "its score", "stimage", "difference (95 %)"], body)


def by_slide() -> str:
    columns = ["leave-slide-out accuracy", "block accuracy", "unsupervised ARI"]
    heads = ["slide", *(f"{c}: {name}" for c in columns for name in (best_average(c), OURS))]
    body = []
    for slide in scores("block accuracy").index:
        row = [slide]
        for column in columns:
            for method in (best_average(column), OURS):
                values = scores(column)
                row.append(f"{values.loc[slide, method]:.3f}" if slide in values.index else "–")
        body.append(row)
    return table(heads, body)


PROTOCOL_ROWS = (
    "coordinates only",
    "per 1,000, 30 axes, one spot",
    "per 1,000, 30 axes, mean of 7",
    "per 1,000, 30 axes, mean of 19",
    "per 1,000, 30 axes, mean of 37",
    "NichePCA",
    OURS,
)


def paper_protocol() -> str:
    """The protocol of the paper, accuracy and adjusted Rand index of each study, in its layout."""
    found: dict[str, dict[str, str]] = {method: {} for method in PROTOCOL_ROWS}
    averages = {method: [] for method in PROTOCOL_ROWS}
    studies = []
    for path in sorted(RESULTS.glob("*.json")):
        document = json.loads(path.read_text())
        records = pd.DataFrame(document["records"], columns=document["columns"])
        means = records[records["protocol"] == "random"].groupby("method")[["accuracy", "ari"]].mean()
        studies.append(document["study"])
        for method in PROTOCOL_ROWS:
            found[method][document["study"]] = "{accuracy:.3f}/{ari:.3f}".format(**means.loc[method])
            averages[method].append(means.loc[method])
    body = []
    for method in PROTOCOL_ROWS:
        mean = pd.DataFrame(averages[method]).mean()
        body.append([method, *(found[method][study] for study in studies), "{accuracy:.3f}/{ari:.3f}".format(**mean)])
    return table(["accuracy/ARI", *studies, "average"], body)


TABLES = {
    "paper knn": paper_protocol,
    "scoreboard": summary,
    "scoreboard, all rows": whole,
    "scoreboard, best averages": best_rows,
    "scoreboard, by slide": by_slide,
}
