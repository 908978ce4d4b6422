"""What the genes of a known tissue are worth on each labelled slide, alone, when nothing is known of its donor.

    python benchmarks/tissue_worth.py --data ../shared/data    # docs/results/tissue_worth.json; five minutes on one core
    python benchmarks/tissue_worth.py --short                  # simulated, seconds, writes nothing

For each slide the known tissues are made anew without all slides of its donor. The closed form and a plain mean of 19 spots are
given the genes that vary most on the slide, and those of its tissue where it is recognised. No fit uses a label. The sections of
developing heart do not say their donor: there only the section itself is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import STUDIES, read_study, simulated_study
from checkpoint_worth import name_of
from known_tissues import STUDIES as KNOWN
from known_tissues import tissues_of
from pretrain_human import read_slides
from scoreboard import facts_of, means, parts_of

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._setup import corpus_of
from stimage.models.embedding._axes import own_axes
from stimage.pretrained import KnownTissues

DONORS = ("DLPFC_15167", *(f"her2st_{patient}" for patient in "ABCDE"))
OUTPUT = Path("docs/results/tissue_worth.json")


def rows_of(adata, tissue) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Closed form and plain mean, on own genes and on those of the tissue, and labels and positions."""
    rows = {}
    own = corpus_of(adata, n_pool_genes=2000)
    for genes, corpus in (("own genes", own), ("known tissue", corpus_of(adata, tissue.genes) if tissue else own)):
        slides = corpus.to_target_sum(1e3)
        axes = own_axes(list(slides))
        scores = [slide.expression @ axes - slide.gene_mean @ axes for slide in slides]
        rows[f"mean of 19, {genes}"] = parts_of(slides, means(slides, scores, 19))
        rows[f"closed form, {genes}"] = sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)
    return rows, facts_of([adata], own)


def score(adata, known: KnownTissues, *, n_repeats: int) -> dict:
    tissue = known.recognise([adata])
    rows, facts = rows_of(adata, tissue)
    options = {"heads": ["knn"], "n_repeats": n_repeats, "n_seeds": 1, "n_seeds_estimated": 0}
    found = evaluate_domains(rows, **facts, protocols=["block", "random", "unsupervised"], **options)
    found["score"] = found["accuracy"].where(found["protocol"] != "unsupervised", found["ari"])
    table = found[found["slide"] != "pooled"].groupby(["protocol", "method"])["score"].mean().unstack("method")
    entry = {"slide": name_of(adata), "n_spots": adata.n_obs, "tissue": tissue.tissue if tissue else ""}
    entry["correlation"] = round(tissue.correlation, 3) if tissue else None
    return entry | {protocol: row[list(rows)].round(4).to_dict() for protocol, row in table.iterrows()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        first, second = simulated_study()
        second.obs["donor"] = "second"
        known = KnownTissues.from_anndata({"simulated": [second]})
        print(pd.Series(score(first, known, n_repeats=2)).to_string())
        return
    studies = read_slides(arguments.data, None, KNOWN)
    records = []
    for study in STUDIES:
        for adata in read_study(arguments.data, study):
            name = name_of(adata)
            left_out = next((donor for donor in DONORS if name.startswith(donor)), name)
            records.append(
                {"study": study, "left_out": left_out, **score(adata, tissues_of(studies, [left_out]), n_repeats=10)}
            )
            print(json.dumps(records[-1]), flush=True)
    OUTPUT.write_text(json.dumps({"records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
