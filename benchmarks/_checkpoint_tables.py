"""Tables of what the checkpoint is worth, for _tables.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from _speed_tables import table

from stimage.benchmark import paired_bootstrap
from stimage.models._embed_slides import FEWEST_SITES
from stimage.models._own_axes import LEAST_RATIO

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "checkpoint_worth.json"
CURVE = RESULTS.with_name("corpus_curve.json")
UNKNOWN = {"section": "another section of a known donor", "donor": "another donor", "tissue": "another tissue"}
COLUMNS = {"leave_slide_out": "leave-slide-out", "block": "blocks", "unsupervised": "unsupervised"}


def records() -> pd.DataFrame:
    """A row for each left out slide; ``used`` says whether predictions are added by default."""
    found = pd.DataFrame(json.loads(RESULTS.read_text())["records"])
    # Sites and spots are the same number on these slides, but for the one of single cells, which is far larger.
    return found.assign(used=(found["ratio"] >= LEAST_RATIO) & (found["n_spots"] >= FEWEST_SITES))


def pairs(rows: pd.DataFrame, protocol: str) -> np.ndarray:
    """Scores of the closed form and with predictions (slides x 2), of the slides that have them."""
    return np.array([pair for pair in rows[protocol] if isinstance(pair, list)], dtype=float).reshape(-1, 2)


def worth() -> str:
    """Closed form, predictions and the default for each kind of unknown slide."""
    header = ["the checkpoint has not seen", "slides", "predictions used", *COLUMNS.values()]
    body = []
    for unknown, words in UNKNOWN.items():
        rows = records()
        rows = rows[rows["unknown"] == unknown]
        cells = []
        for protocol in COLUMNS:
            has = rows[protocol].map(lambda pair: isinstance(pair, list))
            closed, predicted = pairs(rows, protocol).T
            default = np.where(rows["used"][has], predicted, closed)
            cells.append(f"{closed.mean():.3f} / {predicted.mean():.3f} / **{default.mean():.3f}**")
        body.append([words, str(len(rows)), f"{rows['used'].sum()} of {len(rows)}", *cells])
    return table(header, body)


def differences() -> str:
    """What predictions change on the same slides, always and where they are chosen, with an interval over slides."""
    body = []
    for unknown, words in UNKNOWN.items():
        rows = records()
        rows = rows[rows["unknown"] == unknown]
        always, chosen = [], []
        for protocol in COLUMNS:
            used = rows["used"][rows[protocol].map(lambda pair: isinstance(pair, list))]
            closed, predicted = pairs(rows, protocol).T
            always.append(str(paired_bootstrap(predicted, closed)))
            chosen.append(
                str(paired_bootstrap(np.where(used, predicted, closed), closed)) if used.any() else "none used"
            )
        body += [[words, "always", *always], [words, "where chosen", *chosen]]
    return table(["the checkpoint has not seen", "predictions", *COLUMNS.values()], body)


def choice() -> str:
    """How often the test chose the better embedding, and what a wrong choice cost."""
    header = ["score", "slides", "better one chosen", "cost of a wrong choice, mean (largest)", "cost over all slides"]
    body = []
    for protocol, words in COLUMNS.items():
        rows = records()
        has = rows[protocol].map(lambda pair: isinstance(pair, list))
        closed, predicted = pairs(rows, protocol).T
        chosen = np.where(rows["used"][has], predicted, closed)
        cost = np.maximum(closed, predicted) - chosen
        wrong = cost[cost > 0]
        mean = f"{wrong.mean():.3f} ({wrong.max():.3f})" if len(wrong) else "–"
        body.append([words, str(len(cost)), f"{(cost <= 0).sum()} of {len(cost)}", mean, f"{cost.mean():.3f}"])
    return table(header, body)


def by_slide() -> str:
    """Every slide: ratio and both scores."""
    header = ["not seen", "slide", "spots", "explained, relative to neighbours", *COLUMNS.values()]
    body = []
    for row in records().itertuples():
        cells = [
            "–" if not isinstance(getattr(row, protocol), list) else "{:.3f} / {:.3f}".format(*getattr(row, protocol))
            for protocol in COLUMNS
        ]
        ratio = f"**{row.ratio:.2f}**" if row.used else f"{row.ratio:.2f}"
        body.append([row.unknown, row.slide, f"{row.n_spots:,}", ratio, *cells])
    return table(header, body)


def curve() -> str:
    """The same models with more and more slides in the corpus; with an interval where several slides were tested."""
    found = pd.DataFrame(json.loads(CURVE.read_text())["records"])
    header = ["tested", "corpus", "slides", "spots", "explained, relative to neighbours", *COLUMNS.values()]
    body = []
    for (study, corpus), rows in found.groupby(["study", "corpus"], sort=False):
        cells = []
        for protocol in COLUMNS:
            closed, predicted = pairs(rows, protocol).T
            gap = f", {paired_bootstrap(predicted, closed)}" if len(closed) > 1 else ""
            cells.append(f"{closed.mean():.3f} / {predicted.mean():.3f}{gap}")
        first = rows.iloc[0]
        sizes = [f"{first['n_slides']}", f"{first['n_spots_of_corpus']:,}", f"{rows['ratio'].mean():.2f}"]
        body.append([f"{study} ({len(rows)})", corpus, *sizes, *cells])
    return table(header, body)


TABLES = {
    "checkpoint, worth": worth,
    "checkpoint, differences": differences,
    "checkpoint, choice": choice,
    "checkpoint, by slide": by_slide,
    "checkpoint, corpus": curve,
}
