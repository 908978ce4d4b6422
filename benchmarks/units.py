"""The paper's sample units at equal terms: windows, spots with neighbours, spots and slices.

    python benchmarks/units.py --data ../shared/data     # docs/results/units.json (skips what is there); half an hour on one core
    python benchmarks/units.py --short                   # simulated, seconds, writes nothing

All units have the same steps, genes and share of masked values, and the same number of masked values in a step: that of two windows.
All are read out alike (`mode="visible"`): one vector of the trained model for each spot, without codes and without the
closed form. Windows mask whole sites by default and the other units single values, so that windows are also trained with single values
masked. The embedding that windows have by default stands beside. Before training, all units and seeds embed alike: by the token of a spot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _small_trainings import Records, score, targets_of_a_sample, train
from _studies import largest_window, read_study, simulated_study
from scoreboard import parts_of, plain_rows

import stimage as sti
from stimage.data import Corpus
from stimage.models._setup import corpus_of

STUDIES = ("DLPFC", "developing heart", "breast cancer", "prefrontal cortex")
WINDOWS = "windows"
UNITS: dict[str, dict] = {
    WINDOWS: {},
    "windows, single values masked": {"masking": "site_gene"},
    "spots with neighbours": {"unit": "neighborhood", "n_neighbors": 6},
    "spots with neighbours, fixed weights": {"unit": "neighborhood", "n_neighbors": 6, "neighbor_weights": "fixed"},
    "spots": {"unit": "spot"},
    "slices": {"unit": "slice"},
}
UNTRAINED = "not trained"
DEFAULT = "windows, default embedding"
WINDOWS_PER_STEP = 2
SAMPLES_PER_STEP = 4
"""Of spots and slices: so large that a step masks as many values. Neighbourhoods take more samples, of a window's tokens at most."""
OUTPUT = Path("docs/results/units.json")


def untrained(corpus: Corpus, window: int, options: dict, seed: int) -> tuple[sti.models.STImage, int]:
    """An untrained model of a unit, and the number of its samples that mask as many values as the windows of a step."""
    model = sti.models.STImage(corpus, window=window, seed=seed, **options)
    if model.unit.kind.has_windows:
        return model, WINDOWS_PER_STEP
    windows = sti.models.STImage(corpus, window=window, n_genes=options["n_genes"], seed=seed)
    targets = WINDOWS_PER_STEP * targets_of_a_sample(windows)
    tokens = targets / model.spec.mask_ratio * model.unit.kind.tokens_per_spot(model.unit)
    side = min(round((tokens / SAMPLES_PER_STEP) ** 0.5), window)
    model = sti.models.STImage(corpus, window=side, seed=seed, **options)
    return model, round(targets / targets_of_a_sample(model))


def run(adatas: list, study: str, records: Records, *, n_steps: int, n_genes: int, seeds: int, n_repeats: int) -> None:
    corpus = corpus_of(adatas, n_pool_genes=2000)
    window = largest_window(adatas, 16)
    if not records.has(study=study, variant=UNTRAINED):
        rows = {name: parts_of(corpus, vectors) for name, vectors in plain_rows(corpus).items() if "1,000" in name}
        model = sti.models.STImage(corpus, window=window, n_genes=n_genes)
        rows[UNTRAINED] = model.get_latent_representation(mode="visible")
        for name, scores in score(adatas, rows, n_repeats=n_repeats).items():
            records.add(study=study, variant=name, scores=scores)
    for seed in range(seeds):
        for name, unit in UNITS.items():
            if records.has(study=study, variant=name, seed=seed):
                continue
            model, per_step = untrained(corpus, window, {**unit, "n_genes": n_genes}, seed)
            rows = {}
            targets = per_step * targets_of_a_sample(model)
            train(model, n_steps=n_steps, per_step=per_step)
            if name == WINDOWS:
                rows[DEFAULT] = model.get_latent_representation()
            rows[name] = model.get_latent_representation(mode="visible")
            facts = {"targets_per_step": round(targets, 1), "n_tokens_seen": model.n_tokens_seen}
            scored = score(adatas, rows, n_repeats=n_repeats)
            # The unit itself comes last: where it is stored, what stands beside it is.
            for row in rows:
                records.add(study=study, variant=row, seed=seed, **facts, scores=scored[row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        sizes = {"n_steps": 2, "n_genes": 64, "seeds": 1, "n_repeats": 2}
        run(simulated_study(), "simulated", Records(None), **sizes)
        return
    sizes = {"n_steps": 200, "n_genes": 256}
    records = Records(OUTPUT, command="python benchmarks/units.py", **sizes)
    for study in arguments.studies:
        run(read_study(arguments.data, study), study, records, **sizes, seeds=3, n_repeats=10)


if __name__ == "__main__":
    main()
