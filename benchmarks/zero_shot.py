"""A checkpoint on a study that it never saw: embedded as it is, and after short adaptation to the slides.

    python benchmarks/zero_shot.py --data ../shared/data --model CHECKPOINT     # docs/results/zero_shot.json
    python benchmarks/zero_shot.py --short                                      # simulated, seconds, writes nothing

CHECKPOINT comes from `pretrain_human.py --without DLPFC`. The comparison refuses a checkpoint that saw the test slides.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from _studies import read_study, simulated_study

import stimage as sti


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--study", default="DLPFC")
    parser.add_argument("--adapt-epochs", nargs="+", type=int, default=[10])
    parser.add_argument("--output", type=Path, default=Path("docs/results/zero_shot.json"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        *slides, other = simulated_study()
        options = {"window": 8, "n_pool_genes": 200, "max_epochs": 1, "model_kwargs": {"n_genes": 64}}
        model = sti.tl.pretrain(other, trainer_kwargs={"enable_progress_bar": False}, **options)
        repeats = {"n_repeats": 2, "n_seeds": 1}
    else:
        slides = read_study(arguments.data, arguments.study)
        model = sti.models.STImage.load(arguments.model)
        repeats = {"n_repeats": 10, "n_seeds": 5}
    seconds: dict[str, float] = {}
    for adata in slides:
        start = time.perf_counter()
        sti.tl.embed(adata, model, key_added="zero-shot")
        seconds["zero-shot"] = seconds.get("zero-shot", 0.0) + time.perf_counter() - start
    # Adaptation sees the counts of the test slides, without labels, and both slides at once so that they can be compared.
    for n_epochs in (1,) if arguments.short else arguments.adapt_epochs:
        start = time.perf_counter()
        adapted = model.adapt(slides, n_epochs, enable_progress_bar=False)
        for adata in slides:
            sti.tl.embed(adata, adapted, key_added=f"adapted for {n_epochs} epochs")
        seconds[f"adapted for {n_epochs} epochs"] = time.perf_counter() - start
    options = {"label_key": "label", "heads": ["knn"], "n_seeds_estimated": 0, **repeats}
    # Refuses a model that saw the slides.
    sti.benchmark.compare(slides, use_rep="zero-shot", protocols=["block"], **{**options, "n_repeats": 1})
    report = sti.benchmark.compare(slides, use_rep=list(seconds), allow_leak=True, **options)
    report.metadata["seconds"] = seconds
    for protocol, metric, head in (("block", "accuracy", "knn"), ("unsupervised", "ari", "true_number")):
        print(report.mean_over_slides(protocol, metric, head))
    if not arguments.short:
        report.to_json(arguments.output)


if __name__ == "__main__":
    main()
