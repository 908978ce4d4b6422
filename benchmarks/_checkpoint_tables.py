"""Tables of what known tissues and the checkpoint are worth, for _tables.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from _speed_tables import table

from stimage import pretrained
from stimage.benchmark import paired_bootstrap
from stimage.models._embed_slides import FEWEST_SITES
from stimage.models._own_axes import LEAST_RATIO

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "checkpoint_worth.json"
CURVE = RESULTS.with_name("corpus_curve.json")
UNKNOWN = {"section": "another section of a known donor", "donor": "another donor", "tissue": "another tissue"}
COLUMNS = {
    "leave_slide_out": "leave-slide-out",
    "block": "blocks",
    "random": "random",
    "unsupervised": "unsupervised",
}
ROWS = ["closed", "known", "predicted", "default"]


def records() -> pd.DataFrame:
    """Scores of each slide that was left out, score and row, means over trainings; ``default`` is what `tl.embed` chooses."""
    found = pd.DataFrame(json.loads(RESULTS.read_text())["records"])
    # Sites and spots are the same number on these slides, but for the one of single cells, which is far larger.
    found["used"] = (found["ratio"] >= LEAST_RATIO) & (found["n_spots"] >= FEWEST_SITES)
    parts = []
    for protocol in COLUMNS:
        rows = found[found[protocol].map(lambda scores: isinstance(scores, list))]
        scores = pd.DataFrame(rows[protocol].tolist(), columns=ROWS[:3], index=rows.index)
        scores["default"] = scores["predicted"].where(rows["used"], scores["known"])
        facts = rows[["unknown", "slide", "n_spots", "tissue", "ratio", "used"]]
        parts.append(facts.join(scores).assign(protocol=protocol))
    places = ["unknown", "slide", "n_spots", "tissue", "protocol"]
    return pd.concat(parts).groupby(places, sort=False)[["ratio", "used", *ROWS]].mean().reset_index()


def of(unknown: str, protocol: str, *, large: bool = False) -> pd.DataFrame:
    rows = records()
    chosen = (rows["unknown"] == unknown) & (rows["protocol"] == protocol)
    return rows[chosen & (rows["n_spots"] >= FEWEST_SITES) if large else chosen]


def worth() -> str:
    """Closed form and default for each kind of unknown slide, all and large ones."""
    header = ["not seen before", "slides", "tissue recognised", "predictions used", *COLUMNS.values()]
    body = []
    for unknown, words in UNKNOWN.items():
        for large in (False, True):
            rows = of(unknown, "block", large=large)
            cells = [
                f"{part['closed'].mean():.3f} / **{part['default'].mean():.3f}**" if len(part) else "–"
                for part in (of(unknown, protocol, large=large) for protocol in COLUMNS)
            ]
            name = f"{words}, {FEWEST_SITES:,} spots or more" if large else words
            known = f"{(rows['tissue'] != '').sum()} of {len(rows)}"
            body.append([name, str(len(rows)), known, f"{(rows['used'] > 0.5).sum()} of {len(rows)}", *cells])
    return table(header, body)


def differences() -> str:
    """What each step changes on the same slides, with an interval over slides."""
    steps = {
        "known tissue against the closed form": ("known", "closed"),
        "predictions always, against known tissue": ("predicted", "known"),
        "chosen against the closed form": ("default", "closed"),
    }
    body = []
    for unknown, words in UNKNOWN.items():
        for step, (better, base) in steps.items():
            cells = []
            for protocol in COLUMNS:
                rows = of(unknown, protocol)
                same = (rows[better] == rows[base]).all()
                cells.append("the same" if same else str(paired_bootstrap(rows[better], rows[base])))
            body.append([words, step, *cells])
    return table(["not seen before", "step", *COLUMNS.values()], body)


def choice() -> str:
    """How often each choice was the better one, and what a wrong choice cost."""
    header = [
        "choice",
        "score",
        "slides",
        "better one chosen",
        "cost of a wrong choice, mean (largest)",
        "over all slides",
    ]
    rows = records()
    body = []
    for name, others in {"genes of a known tissue": ("closed", "known"), "predictions": ("known", "predicted")}.items():
        for protocol, words in COLUMNS.items():
            part = rows[(rows["protocol"] == protocol) & (rows[others[0]] != rows[others[1]])]
            chosen = part["known"] if name.startswith("genes") else part["default"]
            cost = part[list(others)].max(axis=1) - chosen
            wrong = cost[cost > 0]
            mean = f"{wrong.mean():.3f} ({wrong.max():.3f})" if len(wrong) else "–"
            right = f"{(cost <= 0).sum()} of {len(cost)}"
            body.append([name, words, str(len(cost)), right, mean, f"{cost.mean():.3f}"])
    return table(header, body)


def by_slide() -> str:
    """Every slide: ratio and scores."""
    header = ["not seen", "slide", "spots", "recognised as", "explained, relative to neighbours", *COLUMNS.values()]
    body = []
    for (unknown, slide), rows in records().groupby(["unknown", "slide"], sort=False):
        first = rows.iloc[0]
        cells = []
        for protocol in COLUMNS:
            score = rows[rows["protocol"] == protocol]
            cells.append(" / ".join(f"{float(score[row].iloc[0]):.3f}" for row in ROWS[:3]) if len(score) else "–")
        ratio = rows["ratio"].mean()
        shown = f"**{ratio:.2f}**" if rows["used"].mean() > 0.5 else f"{ratio:.2f}"
        body.append([unknown, slide, f"{first['n_spots']:,}", first["tissue"] or "–", shown, *cells])
    return table(header, body)


def curve() -> str:
    """The same models with more and more slides in the corpus; with an interval where several slides were tested."""
    found = pd.DataFrame(json.loads(CURVE.read_text())["records"])
    header = ["tested", "corpus", "slides", "spots", "explained, relative to neighbours", *COLUMNS.values()]
    body = []
    for (study, corpus), rows in found.groupby(["study", "corpus"], sort=False):
        cells = []
        for protocol in COLUMNS:
            closed, predicted = np.array(rows[protocol].tolist(), dtype=float).T
            gap = f", {paired_bootstrap(predicted, closed)}" if len(closed) > 1 else ""
            cells.append(f"{closed.mean():.3f} / {predicted.mean():.3f}{gap}")
        first = rows.iloc[0]
        sizes = [f"{first['n_slides']}", f"{first['n_spots_of_corpus']:,}", f"{rows['ratio'].mean():.2f}"]
        body.append([f"{study} ({len(rows)})", corpus, *sizes, *cells])
    return table(header, body)


def known() -> str:
    """Slides, donors and genes that each known tissue is from."""
    known = pretrained.known_tissues()
    body = []
    for tissue, slides, variance in zip(known.tissues, known.slides, known.variance, strict=True):
        names = ", ".join(slide["name"] for slide in slides)
        donors = len({slide["donor"] for slide in slides})
        body.append([tissue, names, str(donors), f"{int(np.isfinite(variance).sum()):,}"])
    return table(["tissue", "slides", "donors", "genes"], body)


def tissue() -> str:
    """Plain mean and closed form on own genes and on those of a known tissue, and their differences over slides."""
    found = pd.DataFrame(json.loads(RESULTS.with_name("tissue_worth.json").read_text())["records"])
    found = found[found["tissue"] != ""]
    large = found["n_spots"] >= FEWEST_SITES
    names = {"block": "blocks", "random": "random", "unsupervised": "unsupervised"}
    groups = {f"{len(found)} slides": found, f"{large.sum()} of {FEWEST_SITES:,} spots or more": found[large]}
    header = ["vectors", *(f"{words}, {group}" for group in groups for words in names.values())]

    def scores(rows: pd.DataFrame, protocol: str, method: str) -> np.ndarray:
        return np.array([score[method] for score in rows[protocol]])

    body = []
    for method in (
        "mean of 19, own genes",
        "mean of 19, known tissue",
        "closed form, own genes",
        "closed form, known tissue",
    ):
        means = [f"{scores(rows, protocol, method).mean():.3f}" for rows in groups.values() for protocol in names]
        body.append([method, *means])
    for other in ("closed form, own genes", "mean of 19, known tissue"):
        cells = [
            str(paired_bootstrap(scores(rows, protocol, "closed form, known tissue"), scores(rows, protocol, other)))
            for rows in groups.values()
            for protocol in names
        ]
        body.append([f"the last less {other}", *cells])
    return table(header, body)


def tissue_by_slide() -> str:
    """Every labelled slide: closed form on own genes / on those of the known tissue."""
    body = []
    for record in json.loads(RESULTS.with_name("tissue_worth.json").read_text())["records"]:
        cells = [
            f"{record[protocol]['closed form, own genes']:.3f} / {record[protocol]['closed form, known tissue']:.3f}"
            for protocol in ("block", "random", "unsupervised")
        ]
        alike = f"{record['correlation']:.2f}" if record["tissue"] else "–"
        body.append([record["slide"], f"{record['n_spots']:,}", record["tissue"] or "–", alike, *cells])
    return table(["slide", "spots", "recognised as", "correlation", "blocks", "random", "unsupervised"], body)


def ceiling() -> str:
    """Vectors learned with labels, beside the closed form."""
    found = pd.DataFrame(json.loads(RESULTS.with_name("ceiling.json").read_text())["records"])
    protocols = {name: words for name, words in COLUMNS.items() if name != "leave_slide_out"}
    body = []
    for (slide, method), rows in found.groupby(["slide", "method"], sort=False):
        scores = rows.set_index("protocol")["score"]
        body.append([slide, method, *(f"{scores[protocol]:.3f}" for protocol in protocols)])
    return table(["section", "vectors", *protocols.values()], body)


TABLES = {
    "known tissues": known,
    "known tissues, worth": tissue,
    "known tissues, by slide": tissue_by_slide,
    "ceiling": ceiling,
    "checkpoint, worth": worth,
    "checkpoint, differences": differences,
    "checkpoint, choice": choice,
    "checkpoint, by slide": by_slide,
    "checkpoint, corpus": curve,
}
