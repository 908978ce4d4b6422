"""Tables of sample units, of the paper's ablations and of repeatability, for _tables.py."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from _speed_tables import read, table
from paper_tables import BASE, GIVEN, VARIANTS
from repeatability import TRAINED
from units import DEFAULT, UNITS, UNTRAINED

from stimage.benchmark import paired_bootstrap

PROTOCOLS = {"leave_slide_out": "leave-slide-out accuracy", "block": "block accuracy"}
REFERENCES = [name for name in UNITS if name.startswith("windows")]
# Accuracy/ARI that the paper prints: windows with the k-NN head on DLPFC, channels with the MLP head on DLPFC, genes at inference
# on the average of its six data sets.
THE_PAPER = {
    BASE: ".731/.504 (k-NN), .766/.610 (MLP)",
    "window 24": ".775/.595 (k-NN)",
    "128 genes": ".745/.570 (MLP)",
    "512 genes": ".753/.580 (MLP)",
    "given at inference: weighted": ".663/.428 (average)",
    "given at inference: hvg": ".652/.410 (average)",
    "given at inference: random": ".637/.362 (average)",
}


@cache
def scores(result: str) -> pd.DataFrame:
    """A row for each record, protocol and slide."""
    rows = [
        {
            **{name: record.get(name) for name in ("study", "variant", "seed", "steps", "n_tokens_seen")},
            "protocol": protocol,
            "slide": slide,
            **found,
        }
        for record in read(result)["records"]
        for protocol, slides in record["scores"].items()
        for slide, found in slides.items()
    ]
    return pd.DataFrame(rows).fillna({"seed": 0})


def of_seeds(values: pd.Series) -> str:
    """Mean of the seeds and their standard deviation, of values by seed."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def units_rows() -> list[str]:
    """Rows of the table of units: the best plain average of both columns first."""
    found = scores("units")
    averages = found[found["variant"].str.contains("mean of")]
    best = [
        averages[averages["protocol"] == protocol].groupby("variant")["accuracy"].mean().idxmax()
        for protocol in PROTOCOLS
    ]
    return [*dict.fromkeys(best), UNTRAINED, *reversed(UNITS), DEFAULT]


def units() -> str:
    """Accuracy by unit: mean over slides, deviation over seeds."""
    found = scores("units")
    sizes = {protocol: found[found["protocol"] == protocol]["slide"].nunique() for protocol in PROTOCOLS}
    body = []
    for variant in units_rows():
        rows = found[found["variant"] == variant]
        cells = [
            of_seeds(rows[rows["protocol"] == protocol].groupby("seed")["accuracy"].mean()) for protocol in PROTOCOLS
        ]
        tokens = rows["n_tokens_seen"].mean()
        body.append([variant, "–" if np.isnan(tokens) or variant == DEFAULT else f"{tokens:,.0f}", *cells])
    header = [
        "unit",
        "spots read in training",
        *(f"{words} ({sizes[name]} slides)" for name, words in PROTOCOLS.items()),
    ]
    return table(header, body)


def by_slide(variant: str, protocol: str) -> pd.Series:
    """Accuracy of each slide, mean over seeds."""
    found = scores("units")
    return found[(found["variant"] == variant) & (found["protocol"] == protocol)].groupby("slide")["accuracy"].mean()


def unit_differences() -> str:
    """Windows less each other unit, with an interval over slides."""
    body = []
    for variant in units_rows():
        if variant == DEFAULT:
            continue
        cells = []
        for reference in REFERENCES:
            for protocol in PROTOCOLS:
                gap = paired_bootstrap(by_slide(reference, protocol), by_slide(variant, protocol))
                cells.append("–" if variant == reference else str(gap))
        body.append([variant, *cells])
    header = [f"{reference} less it, {words}" for reference in REFERENCES for words in ("leave-slide-out", "blocks")]
    return table(["unit", *header], body)


def units_by_study() -> str:
    """Leave-slide-out / block accuracy by study, mean over slides and seeds."""
    found = scores("units")
    studies = list(found["study"].unique())
    means = found.groupby(["variant", "study", "protocol"])["accuracy"].mean()
    body = [
        [
            variant,
            *(" / ".join(f"{means[variant, study, protocol]:.3f}" for protocol in PROTOCOLS) for study in studies),
        ]
        for variant in units_rows()
    ]
    return table(["unit, leave-slide-out / blocks", *studies], body)


def paper_ablations() -> str:
    """Scores of the paper's ablations: mean over slides, deviation over seeds."""
    found = scores("paper_tables")
    columns = [("leave_slide_out", "accuracy"), ("block", "accuracy"), ("random", "accuracy"), ("random", "ari")]

    def by_seed(variant: str, protocol: str, metric: str) -> pd.Series:
        rows = found[(found["variant"] == variant) & (found["protocol"] == protocol)]
        return rows.groupby("seed")[metric].mean()

    body = []
    n_seeds = found.groupby("variant")["seed"].nunique()
    # A run that was stopped is shown without the variants that are not complete.
    for variant in [name for name in (*VARIANTS, *GIVEN) if n_seeds.get(name, 0) == n_seeds.max()]:
        rows = found[found["variant"] == variant]
        gap = by_seed(variant, *columns[0]) - by_seed(BASE, *columns[0])
        cells = [of_seeds(by_seed(variant, *column)) for column in columns]
        cells.insert(1, "–" if variant == BASE else f"{gap.mean():+.3f} ± {gap.std():.3f}")
        trained = "–" if variant in GIVEN else f"{rows['steps'].iloc[0]:.0f}, {rows['n_tokens_seen'].mean():,.0f}"
        body.append([variant, trained, *cells, THE_PAPER.get(variant, "–")])
    header = ["variant", "steps, spots seen", "leave-slide-out accuracy", "less the first row", "block accuracy"]
    return table([*header, "random 20/80 accuracy", "random 20/80 ARI", "the paper, accuracy/ARI"], body)


def repeatability() -> str:
    """Largest difference of vectors and scores by what was changed."""
    found = read("repeatability")["differences"]
    header = ["changed", "embedding", "vectors, relative", "accuracy", "unsupervised ARI"]
    body = []
    for setting, of_parts in found.items():
        for part in ("without training", "trained"):
            vectors = max(gap for name, gap in of_parts["vectors"].items() if (name in TRAINED) == (part == "trained"))
            scores = [f"{of_parts[part][score]['largest']:.1g}" for score in ("accuracy", "ari")]
            body.append([setting, part, f"{vectors:.1g}", *scores])
    return table(header, body)


TABLES = {
    "units": units,
    "unit differences": unit_differences,
    "units by study": units_by_study,
    "paper ablations": paper_ablations,
    "repeatability": repeatability,
}
