"""Tables of slides of few counts, for _tables.py."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from _simulation_tables import short
from _speed_tables import read, table

METHODS = {
    "stimage, factor 1": "fixed widths",
    "stimage": "chosen widths",
    **{f"mean of {size}": f"mean of {size}" for size in (7, 19, 37, 91, 169)},
}


def scores(entries: list[dict]) -> list[str]:
    """Block accuracy and ARI of each method, means over entries."""
    cells = []
    for method in METHODS:
        found = [entry["scores"][method] for entry in entries]
        cells.append("/".join(short(float(np.mean([one[metric] for one in found]))) for metric in ("block", "ari")))
    return cells


def factors(entries: list[dict]) -> str:
    return " ".join(dict.fromkeys(f"{entry['factor']:.1f}" for entry in entries))


def by_counts() -> str:
    """One row for each slide and number of counts."""
    document = read("multi_scale")
    body = []
    for part in ("simulated", "thinned"):
        for (slide, counts), group in groupby(document[part], lambda entry: (entry["slide"], entry["counts"])):
            entries = list(group)
            body.append([slide, str(counts), factors(entries), *scores(entries)])
    return table(["slide", "counts", "factor", *METHODS.values()], body)


def summary() -> str:
    """Means over all cases in which the factor is not 1, and what it gained."""
    document = read("multi_scale")
    body = []
    for part, title in (("simulated", "simulated bins"), ("thinned", "thinned slides")):
        entries = [entry for entry in document[part] if entry["factor"] > 1]
        gains = {
            metric: [
                entry["scores"]["stimage"][metric] - entry["scores"]["stimage, factor 1"][metric] for entry in entries
            ]
            for metric in ("block", "ari")
        }
        differences = " / ".join(
            f"{np.mean(gain):+.3f} ± {np.std(gain, ddof=1) / len(gain) ** 0.5:.3f}" for gain in gains.values()
        )
        body.append([title, f"{len(entries)} of {len(document[part])}", *scores(entries), differences])
    return table(["", "factor above 1", *METHODS.values(), "chosen less fixed, ± standard error"], body)


TABLES = {"few counts": summary, "few counts, each": by_counts}
