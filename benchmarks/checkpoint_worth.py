"""What the shipped checkpoint is worth for slides that it has not seen, and how often it is rightly left out.

    python benchmarks/checkpoint_worth.py --data ../shared/data    # docs/results/checkpoint_worth.json; a quarter of an hour on one core
    python benchmarks/checkpoint_worth.py --short                  # simulated, seconds, writes nothing

A checkpoint is trained three times as `pretrain_human.py` does, with fewer epochs, each time without some slides: a section of
donors that it knows from other sections, all sections of some donors, and two tissues as a whole. The slides left out are
embedded in closed form and with the checkpoint's predictions, both fitted to the labelled slides of their study without
labels (transductive); the test of familiarity is made on each slide alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import STUDIES, read_study, simulated_study
from pretrain_human import choose_genes, read_slides, simulate_slides

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._own_axes import fit_on_own_axes
from stimage.models._setup import corpus_of

LEFT_OUT = {
    "section": ["DLPFC_151674", "heart_dev_4", *(f"her2st_{patient}1" for patient in "ABCDE")],
    "donor": ["DLPFC_15167", "her2st_A", "her2st_B", "her2st_C", "breast_xenium_IDC"],
    "tissue": ["DLPFC", "heart_dev"],
}
OUTPUT = Path("docs/results/checkpoint_worth.json")


def compare(model, adatas: list, tested: list[str], **options) -> list[dict]:
    """Scores of the tested slides of a study in closed form and with a checkpoint's predictions."""
    corpus = corpus_of(adatas, n_pool_genes=2000)
    closed = sti.models.SmoothedPCA(corpus)
    rows = {"closed form": closed.get_latent_representation(corpus)}
    fitted, predicted, _ = fit_on_own_axes(adatas, corpus, model, seed=0, asked=True)
    rows["with predictions"] = fitted.embed(corpus, predicted)
    facts = {
        "labels": np.concatenate([np.asarray(a.obs["label"], dtype=object) for a in adatas]),
        "slides": np.concatenate([np.repeat(str(a.obs["slide"].iloc[0]), a.n_obs) for a in adatas]),
        "positions": np.concatenate([s.positions[s.site_of_observation] for s in corpus]),
    }
    protocols = [*(["leave_slide_out"] if len(adatas) > 1 else []), "block", "random", "unsupervised"]
    scores = evaluate_domains(
        rows, **facts, protocols=protocols, heads=["knn"], n_seeds=1, n_seeds_estimated=0, **options
    )
    scores = scores[scores["slide"].isin(tested)]
    scores["score"] = scores["accuracy"].where(scores["protocol"] != "unsupervised", scores["ari"])
    table = scores.groupby(["slide", "protocol", "method"])["score"].mean().unstack("method")
    found = []
    for adata in adatas:
        name = str(adata.obs["slide"].iloc[0])
        if name in tested:
            own = corpus_of(adata, n_pool_genes=2000)
            familiarity = fit_on_own_axes([adata], own, model, seed=0, asked=False)[2]
            entry = {"slide": name, "n_spots": adata.n_obs, "ratio": round(familiarity.ratio, 3)}
            for protocol, row in table.loc[name].iterrows():
                entry[protocol] = [round(float(row[method]), 4) for method in rows]
            found.append(entry)
    return found


def train(studies: dict[str, list], left_out: list[str], *, genes: list[str], epochs: int, **options):
    slides = [
        adata
        for adatas in studies.values()
        for adata in adatas
        if not any(part in str(adata.obs["slide"].iloc[0]) for part in left_out)
    ]
    corpus = sti.data.Corpus.from_anndata(slides, genes=genes, donor_key="donor")
    return sti.tl.pretrain(corpus, max_epochs=epochs, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        studies = simulate_slides()
        genes = choose_genes(studies, 200)
        quiet = {"enable_progress_bar": False, "windows_per_epoch": 16}
        model = train(studies, ["slide1"], genes=genes, epochs=1, window=8, batch_size=8, trainer_kwargs=quiet)
        print(pd.DataFrame(compare(model, simulated_study(), ["simulated 0"], n_repeats=2)).to_string())
        return
    studies = read_slides(arguments.data, None)
    genes = choose_genes(studies, 10_000)
    records = []
    for relation, left_out in LEFT_OUT.items():
        start = time.perf_counter()
        model = train(studies, left_out, genes=genes, epochs=arguments.epochs)
        seconds = time.perf_counter() - start
        for study, names in STUDIES.items():
            tested = [name for name in names if any(part in name for part in left_out)]
            if tested:
                for entry in compare(model, read_study(arguments.data, study), tested, n_repeats=10):
                    records.append({"unknown": relation, "study": study, **entry})
                    print(json.dumps(records[-1]), flush=True)
        print(f"{relation}: {seconds:.0f} s of training", flush=True)
    content = {"epochs": arguments.epochs, "records": records}
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
