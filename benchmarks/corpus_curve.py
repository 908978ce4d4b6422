"""What more slides in the corpus are worth: models trained for the same number of steps on more and more slides.

    python benchmarks/corpus_curve.py --data ../shared/data    # docs/results/corpus_curve.json; a quarter of an hour on one core
    python benchmarks/corpus_curve.py --short                  # simulated, seconds, writes nothing

Slides that are tested are in none of the corpora. They are embedded in closed form and with the predictions of each model, all
tested slides of a study together. One training seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from _studies import read_study, simulated_study
from checkpoint_worth import compare, train
from pretrain_human import choose_genes, read_slides, simulate_slides

TESTED = {"DLPFC": ["DLPFC_151674"], "breast cancer": [f"her2st_{patient}1" for patient in "ABCDE"]}
SISTERS = [f"her2st_{patient}{number}" for patient in "ABCDE" for number in range(2, 7)]
CORPORA = {
    "DLPFC": {
        "one section of the donor": ["DLPFC_151673"],
        "three sections of three donors": ["DLPFC_151673", "DLPFC_151510", "DLPFC_Br8325"],
        "all slides": [""],
    },
    "breast cancer": {
        "the second section of each patient": SISTERS[::5],
        "all other sections": SISTERS,
        "all slides": [""],
    },
}
OUTPUT = Path("docs/results/corpus_curve.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        studies = simulate_slides()
        quiet = {"enable_progress_bar": False, "windows_per_epoch": 16}
        options = {
            "genes": choose_genes(studies, 200),
            "epochs": 1,
            "window": 8,
            "batch_size": 8,
            "trainer_kwargs": quiet,
        }
        found = [
            compare(
                train(studies, left_out, **options), None, simulated_study(), ["simulated 0"], alone=False, n_repeats=2
            )[0]
            for left_out in (["slide1"], [])
        ]
        print(pd.DataFrame(found).to_string())
        return
    studies = read_slides(arguments.data, None)
    genes = choose_genes(studies, 10_000)
    names = [str(adata.obs["slide"].iloc[0]) for adatas in studies.values() for adata in adatas]
    tested = [name for slides in TESTED.values() for name in slides]
    records, models = [], {}
    for study, corpora in CORPORA.items():
        for corpus, kept in corpora.items():
            chosen = [name for name in names if any(part in name for part in kept) and name not in tested]
            if tuple(chosen) not in models:
                left_out = [name for name in names if name not in chosen]
                steps = {"windows_per_epoch": 800}
                models[tuple(chosen)] = train(
                    studies, left_out, genes=genes, epochs=arguments.epochs, trainer_kwargs=steps
                )
            model = models[tuple(chosen)]
            n_spots = int(model.manifest["slides"]["n_sites"].sum())
            for entry in compare(
                model, None, read_study(arguments.data, study), TESTED[study], alone=False, n_repeats=10
            ):
                facts = {"study": study, "corpus": corpus, "n_slides": len(chosen), "n_spots_of_corpus": n_spots}
                records.append({**facts, **entry})
                print(json.dumps(records[-1]), flush=True)
    OUTPUT.write_text(json.dumps({"epochs": arguments.epochs, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
