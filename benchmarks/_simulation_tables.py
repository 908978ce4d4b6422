"""Tables of simulated beside real slides, for _tables.py."""

from __future__ import annotations

import numpy as np
from _speed_tables import read, table

OF_AXES = {
    "variance": "variance, of the first axis",
    "between domains": "between domains",
    "neighbours within domains": "within, correlation of neighbours",
}
OF_SLIDES = {
    "library spread": "library size, spread",
    "library neighbours": "correlation of neighbours",
    "library between domains": "between domains",
    "zeros": "zeros",
    "ARI, mean of 1": "ARI, own",
    "ARI, mean of 7": "mean of 7",
    "ARI, mean of 19": "mean of 19",
}


def short(value: float) -> str:
    # Adding zero turns -0. into 0.
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)


def groups() -> dict[str, list[dict]]:
    """Real slides one by one, simulated slides by kind."""
    document = read("simulated_tissue")
    real = {name.removeprefix("img-"): [found] for name, found in document["real"].items()}
    simulated = {f"simulated, {name}": slides for name, slides in document["simulated"].items()}
    return real | simulated


def mean(slides: list[dict], key: str) -> np.ndarray:
    return np.mean([slide[key] for slide in slides], axis=0)


def simulated_axes() -> str:
    body = [[name, *(" ".join(map(short, mean(slides, key))) for key in OF_AXES)] for name, slides in groups().items()]
    return table(["slide", *OF_AXES.values()], body)


def simulated_slides() -> str:
    """Values of the first table that are out of range, beside what describes a slide as a whole."""
    real = list(read("simulated_tissue")["real"].values())
    values = np.array([flat(slide) for slide in real])
    body = []
    for name, slides in groups().items():
        outside = []
        for slide in slides:
            others = values[[other != slide for other in real]]
            own = flat(slide)
            outside.append(((own < others.min(axis=0)) | (own > others.max(axis=0))).mean())
        body.append([name, *(short(mean(slides, key)) for key in OF_SLIDES), f"{100 * np.mean(outside):.0f} %"])
    return table(["slide", *OF_SLIDES.values(), "out of range"], body)


def flat(slide: dict) -> np.ndarray:
    # The variance of the first axis is one by definition.
    return np.concatenate([slide["variance"][1:], *(slide[key] for key in list(OF_AXES)[1:])])


TABLES = {"simulated axes": simulated_axes, "simulated slides": simulated_slides}
