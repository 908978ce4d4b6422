"""Tables of joint domains over several slides, for _tables.py."""

from __future__ import annotations

import numpy as np
from _speed_tables import read, table

from stimage.benchmark import paired_bootstrap

SCORES = ("leave-slide-out accuracy", "ARI of joint domains")


def harmony() -> str:
    """Closed form / after Harmony; scores are means over slides."""
    studies = read("many_slides")["studies"]
    body = []
    for study, rows in studies.items():
        cells = [" / ".join(f"{row['mixing'][key]:.2f}" for row in rows.values()) for key in ("ilisi", "kbet")]
        cells += [" / ".join(f"{values_of(row, score).mean():.3f}" for row in rows.values()) for score in SCORES]
        body.append([study, str(len(rows["stimage"]["slides"])), *cells])
    gaps = []
    for score in SCORES:
        before, after = (
            np.concatenate([values_of(rows[name], score) for rows in studies.values()])
            for name in ("stimage", "stimage, Harmony")
        )
        gaps.append(str(paired_bootstrap(after, before)))
    body.append(["Harmony less closed form (95 %)", str(len(before)), "", "", *gaps])
    return table(["study", "slides", "iLISI", "kBET", *SCORES], body)


def values_of(row: dict, score: str) -> np.ndarray:
    return np.array([slide[score] for slide in row["slides"].values()])


TABLES = {"many slides": harmony}
