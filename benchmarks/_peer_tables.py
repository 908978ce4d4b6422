"""Tables of the peer methods, for _tables.py: each beside the scoreboard's rows on the slides that it was run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from _scoreboard_tables import OURS, best_average, scores
from _speed_tables import table

from stimage.benchmark import paired_bootstrap

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "peers.json"
NAMES = {
    "nichepca": "NichePCA",
    "banksy": "BANKSY",
    "spatialleiden": "SpatialLeiden",
    "cellcharter": "CellCharter",
    "stagate": "STAGATE",
    "graphst": "GraphST",
    "novae": "Novae, not pretrained",
}
UNSUPERVISED = "unsupervised ARI"
OWN = "own clustering ARI"
SHOWN = "DLPFC_151673"
"""The slide whose time and memory are shown beside the mean over all."""
PUBLISHED = {
    "DLPFC_151673": "GraphST 0.638",
    "DLPFC_151674": "GraphST 0.610",
    "STARmap_V1_BY3_1k": "ADEPT 0.594",
    "STARmap_mPFC_BZ5": "ADEPT 0.749",
    "STARmap_mPFC_BZ9": "GraphST 0.533",
    "her2st_A1": "GraphST 0.266",
    "her2st_B1": "CCST 0.357",
    "her2st_C1": "0.165",
    "her2st_D1": "0.164",
    "her2st_E1": "0.102",
}
"""The best mean over runs in BenchmarkST (Hu et al. 2024): all genes, mclust, other label sets."""


@cache
def document() -> dict:
    return json.loads(RESULTS.read_text())


def of_peer(peer: str, column: str) -> pd.Series:
    """Scores by slide; its own labels are means over seeds."""
    found = {
        slide: np.mean(peers[peer]["scores"][column])
        for slide, peers in document()["slides"].items()
        if column in peers.get(peer, {}).get("scores", {})
    }
    return pd.Series(found, dtype=float)


def rows(column: str, ours: str, suffix: str = "") -> Iterator[list[str]]:
    """Every peer with such a score, beside stimage and the best average in the scoreboard's column ``ours``."""
    board = scores(ours)
    for peer, name in NAMES.items():
        theirs = of_peer(peer, column)
        if len(theirs) < 2:
            continue
        here = board.loc[theirs.index]
        average = here[best_average(ours)]
        means = [f"{values.mean():.3f}" for values in (theirs, here[OURS], average)]
        gaps = [str(paired_bootstrap(values, theirs)) for values in (here[OURS], average)]
        yield [name + suffix, str(len(theirs)), *means, *gaps]


def compared(bodies: list[list[str]], average: str) -> str:
    gaps = ["stimage less it (95 %)", "best average less it (95 %)"]
    return table(["method", "slides", "its mean", "stimage", f"best average ({average})", *gaps], bodies)


def unsupervised() -> str:
    body = [*rows(UNSUPERVISED, UNSUPERVISED), *rows(OWN, UNSUPERVISED, ", its own clusters")]
    return compared(body, best_average(UNSUPERVISED))


def with_column(column: str) -> str:
    return compared(list(rows(column, column)), best_average(column))


def by_slide() -> str:
    columns = {name: of_peer(peer, UNSUPERVISED) for peer, name in NAMES.items()}
    columns |= {f"{name}, own": of_peer(peer, OWN) for peer, name in NAMES.items()}
    columns = {name: values for name, values in columns.items() if len(values)}
    board = scores(UNSUPERVISED)
    body = []
    for slide in board.index:
        cells = [f"{values[slide]:.3f}" if slide in values else "–" for values in columns.values()]
        ours = [f"{board.loc[slide, method]:.3f}" for method in (best_average(UNSUPERVISED), OURS)]
        body.append([slide, *cells, *ours, PUBLISHED.get(slide, "–")])
    header = [UNSUPERVISED, *columns, best_average(UNSUPERVISED), OURS, "best published, other input"]
    return table(header, body)


def costs() -> str:
    body = []
    for peer, name in {**NAMES, "closed_form": OURS}.items():
        found = {slide: peers[peer] for slide, peers in document()["slides"].items() if peer in peers}
        if not found:
            continue
        entries = list(found.values())
        # Labels of several seeds were found in one process.
        seconds = {slide: entry["cpu_seconds"] for slide, entry in found.items()}
        memory = {slide: entry["peak_mib"] for slide, entry in found.items()}
        cells = [f"{np.median(list(seconds.values())):.1f}", f"{max(seconds.values()):.1f}"]
        cells += [f"{seconds[SHOWN]:.1f}", f"{memory[SHOWN]:,.0f}"] if SHOWN in found else ["–", "–"]
        seeds = str(max(entry.get("n_seeds", 1) for entry in entries))
        body.append([name, entries[0]["version"], str(len(found)), seeds, *cells, f"{max(memory.values()):,.0f}"])
    header = ["method", "version", "slides", "seeds", "CPU seconds, median", "largest", SHOWN]
    return table([*header, f"peak MiB, {SHOWN}", "largest"], body)


def missing() -> str:
    """Slides that a peer was not scored on, and why."""
    body = []
    for peer, name in NAMES.items():
        done = {slide for slide, peers in document()["slides"].items() if peer in peers}
        reasons: dict[str, list[str]] = {}
        for slide in sorted(set(document()["slides"]) - done):
            reason = document()["failed"].get(peer, {}).get(slide, "not run")
            reasons.setdefault(reason, []).append(slide)
        body += [[name, reason, ", ".join(slides)] for reason, slides in reasons.items()]
    return table(["method", "reason", "slides"], body)


TABLES = {
    "peers": unsupervised,
    "peers, mixtures": lambda: with_column("ARI, mixtures (10 seeds)"),
    "peers, blocks": lambda: with_column("block accuracy"),
    "peers, by slide": by_slide,
    "peers, missing": missing,
    "peer costs": costs,
}
