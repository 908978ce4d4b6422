"""How much better an embedding of a section could be: vectors that were learned with the labels of another section.

    python benchmarks/ceiling.py --data ../shared/data    # docs/results/ceiling.json; half a minute on one core
    python benchmarks/ceiling.py --short                  # simulated, seconds, writes nothing

Studies with several large sections. Each section is described by the votes of its nearest neighbours in the other section, whose
labels are given: no embedding without labels can be expected to tell the same domains apart better. The labels of the section
itself, as vectors, are what its blocks allow: domains that no training block holds are never right.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import read_study, simulated_study
from scoreboard import facts_of
from sklearn.neighbors import KNeighborsClassifier

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._setup import corpus_of

STUDIES = ("DLPFC", "prefrontal cortex")
OUTPUT = Path("docs/results/ceiling.json")
NOISE = 1e-3
"""Of true labels, so that vectors of one domain are not all the same."""


def rows_of(adatas: list) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Embeddings of the slides of a study, and labels, slides and positions."""
    corpus = corpus_of(adatas, n_pool_genes=2000)
    facts = facts_of(adatas, corpus)
    closed = sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)
    labelled = pd.notna(facts["labels"])
    names, number = np.unique(facts["labels"][labelled].astype(str), return_inverse=True)
    truth = np.random.default_rng(0).normal(scale=NOISE, size=(len(closed), len(names)))
    truth[np.flatnonzero(labelled), number] += 1
    votes = np.zeros_like(truth)
    for slide in np.unique(facts["slides"]):
        training, tested = labelled & (facts["slides"] != slide), facts["slides"] == slide
        head = KNeighborsClassifier(15).fit(closed[training], facts["labels"][training].astype(str))
        votes[np.ix_(tested, np.searchsorted(names, head.classes_))] = head.predict_proba(closed[tested])
    rows = {"closed form": closed, "votes by labels of the other section": votes, "its own labels": truth}
    return rows, facts


def scores(adatas: list, *, n_repeats: int) -> pd.DataFrame:
    rows, facts = rows_of(adatas)
    options = {"heads": ["knn"], "n_repeats": n_repeats, "n_seeds": 1, "n_seeds_estimated": 0}
    found = evaluate_domains(rows, **facts, protocols=["block", "random", "unsupervised"], **options)
    found["score"] = found["accuracy"].where(found["protocol"] != "unsupervised", found["ari"])
    found = found[found["slide"] != "pooled"]
    table = found.groupby(["slide", "protocol", "method"], sort=False)["score"].mean().round(4).reset_index()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        print(scores(simulated_study(), n_repeats=2).to_string())
        return
    records = [
        {"study": study, **record}
        for study in STUDIES
        for record in scores(read_study(arguments.data, study), n_repeats=10).to_dict("records")
    ]
    OUTPUT.write_text(json.dumps({"records": records}, indent=1) + "\n")
    print(pd.DataFrame(records).pivot_table(index=["slide", "method"], columns="protocol", values="score").to_string())


if __name__ == "__main__":
    main()
