"""What known tissues and the checkpoint are worth for slides that neither has seen, and which predictions are left out.

    python benchmarks/checkpoint_worth.py --data ../shared/data    # docs/results/checkpoint_worth.json; 20 minutes of a core a seed
    python benchmarks/checkpoint_worth.py --short                  # simulated, seconds, writes nothing

Known tissues and a checkpoint are made three times as `known_tissues.py` and `pretrain_human.py` do, the checkpoint with fewer
epochs, each time without some slides: a section of donors that are known from other sections, all sections of some donors, and
two tissues as a whole. The slides left out are embedded in closed form, on the genes of their tissue where it is recognised, and
with the checkpoint's predictions besides. Each slide is fitted alone, but for leave-slide-out, where the labelled slides of its
study are fitted together (transductive). No fit uses a label.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from _studies import STUDIES, read_study, simulated_study
from known_tissues import tissues_of
from pretrain_human import choose_genes, read_slides, simulate_slides

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._own_axes import Familiarity, fit_on_own_axes
from stimage.models._setup import corpus_of
from stimage.pretrained import KnownTissues

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models import STImage

LEFT_OUT = {
    "section": ["DLPFC_151674", "heart_dev_4", *(f"her2st_{patient}1" for patient in "ABCDE")],
    "donor": ["DLPFC_15167", "her2st_A", "her2st_B", "her2st_C", "breast_xenium_IDC"],
    "tissue": ["DLPFC", "heart_dev"],
}
OUTPUT = Path("docs/results/checkpoint_worth.json")


class Embedded(NamedTuple):
    """Rows of the table for slides that are fitted together."""

    rows: dict[str, np.ndarray]
    positions: np.ndarray
    familiarity: Familiarity
    tissue: str


def embed(model: STImage, known: KnownTissues | None, adatas: list) -> Embedded:
    corpus = corpus_of(adatas, n_pool_genes=2000)
    positions = np.concatenate([slide.positions[slide.site_of_observation] for slide in corpus])
    rows = {"closed form": sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)}
    tissue = known.recognise(adatas) if known else None
    if tissue:
        corpus = corpus_of(adatas, tissue.genes)
    if known:
        rows["known tissue"] = sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)
    fitted, predicted, familiarity = fit_on_own_axes(adatas, corpus, model, seed=0, asked=True)
    rows["with predictions"] = fitted.embed(corpus, predicted)
    return Embedded(rows, positions, familiarity, tissue.tissue if tissue else "")


def scores(embedded: Embedded, adatas: list, protocols: list[str], **options) -> dict[tuple[str, str], list]:
    """Scores of the rows, by slide and protocol."""
    facts = {
        "labels": np.concatenate([np.asarray(a.obs["label"], dtype=object) for a in adatas]),
        "slides": np.concatenate([np.repeat(name_of(a), a.n_obs) for a in adatas]),
        "positions": embedded.positions,
    }
    options |= {"protocols": protocols, "heads": ["knn"], "n_seeds": 1, "n_seeds_estimated": 0}
    found = evaluate_domains(embedded.rows, **facts, **options)
    found["score"] = found["accuracy"].where(found["protocol"] != "unsupervised", found["ari"])
    table = found.groupby(["slide", "protocol", "method"])["score"].mean().unstack("method")
    return {place: [round(float(row[method]), 4) for method in embedded.rows] for place, row in table.iterrows()}


def compare(
    model: STImage, known: KnownTissues | None, adatas: list, tested: list[str], *, alone: bool = True, **options
) -> list[dict]:
    """Scores of the tested slides of a study: closed form, known tissue (where there are any), with predictions.

    ``alone``: each slide is fitted alone, but for leave-slide-out; else all slides of the study are fitted together.
    """
    protocols, found = ["block", "random", "unsupervised"], {}
    together = [*(["leave_slide_out"] if len(adatas) > 1 else []), *([] if alone else protocols)]
    if together:
        found = scores(embed(model, known, adatas), adatas, together, **options)
    entries = []
    for adata in (one for one in adatas if name_of(one) in tested):
        own = embed(model, known, [adata])
        if alone:
            found |= scores(own, [adata], protocols, **options)
        entry = {"slide": name_of(adata), "n_spots": adata.n_obs, "tissue": own.tissue}
        entry["ratio"] = round(own.familiarity.ratio, 3)
        entries.append(entry | {protocol: row for (slide, protocol), row in found.items() if slide == name_of(adata)})
    return entries


def name_of(adata: AnnData) -> str:
    return str(adata.obs["slide"].iloc[0])


def train(studies: dict[str, list], left_out: list[str], *, genes: list[str], epochs: int, **options):
    slides = [
        adata for adatas in studies.values() for adata in adatas if not any(part in name_of(adata) for part in left_out)
    ]
    corpus = sti.data.Corpus.from_anndata(slides, genes=genes, donor_key="donor")
    return sti.tl.pretrain(corpus, max_epochs=epochs, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the trainings of the checkpoint")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        studies = simulate_slides()
        genes = choose_genes(studies, 200)
        quiet = {"enable_progress_bar": False, "windows_per_epoch": 16}
        model = train(studies, ["slide1"], genes=genes, epochs=1, window=8, batch_size=8, trainer_kwargs=quiet)
        known = KnownTissues.from_anndata({"simulated": studies["study 0"]})
        print(pd.DataFrame(compare(model, known, simulated_study(), ["simulated 0"], n_repeats=2)).to_string())
        return
    studies = read_slides(arguments.data, None)
    genes = choose_genes(studies, 10_000)
    records = []
    for relation, left_out in LEFT_OUT.items():
        known = tissues_of(studies, left_out)
        for seed in arguments.seeds:
            start = time.perf_counter()
            model = train(studies, left_out, genes=genes, epochs=arguments.epochs, seed=seed)
            print(f"{relation}, seed {seed}: {time.perf_counter() - start:.0f} s of training", flush=True)
            for study, names in STUDIES.items():
                tested = [name for name in names if any(part in name for part in left_out)]
                if tested:
                    for entry in compare(model, known, read_study(arguments.data, study), tested, n_repeats=10):
                        records.append({"unknown": relation, "seed": seed, "study": study, **entry})
                        print(json.dumps(records[-1]), flush=True)
    content = {"epochs": arguments.epochs, "records": records}
    arguments.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
