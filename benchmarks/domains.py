"""Models trained on the slides of a study: their embeddings beside the closed form on every labelled slide.

    python benchmarks/domains.py train --data ../shared/data     # embeddings to --cache (resumes where it stopped)
    python benchmarks/domains.py score --data ../shared/data     # docs/results/domains/<study>.json
    python benchmarks/domains.py --short                         # simulated, seconds, writes nothing

Each study's slides are pretrained on together, without labels, with default settings, once for each seed: embeddings are
transductive, as that of the closed form is. The protocols are those of `scoreboard.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import STUDIES, largest_window, read_study, simulated_study
from scoreboard import facts_of, stored, table_of

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._setup import corpus_of


def path_of(cache: Path, study: str, seed: int) -> Path:
    """The model of a study; its embeddings are beside it, with the ending .npz."""
    return cache / f"{study}.patch.{seed}"


def train(slides: list, study: str, cache: Path, seed: int, **options) -> None:
    """Pretrain on a study and store the model, and one file with the embeddings of its slides."""
    path = path_of(cache, study, seed)
    embeddings = path.with_name(f"{path.name}.npz")
    if embeddings.exists():
        return
    options = {"window": largest_window(slides, 16), **options}
    start = time.perf_counter()
    model = sti.tl.pretrain(slides, seed=seed, trainer_kwargs={"enable_progress_bar": False}, **options)
    seconds = time.perf_counter() - start
    model.save(path, overwrite=True)
    names = [str(adata.obs["slide"].iloc[0]) for adata in slides]
    vectors = [model.get_latent_representation(adata, seed=seed) for adata in slides]
    np.savez(embeddings, **dict(zip(names, vectors, strict=True)))
    print(f"{study}, seed {seed}: {seconds:.0f} s", flush=True)


def trained(slides: list, study: str, cache: Path) -> dict[str, list[np.ndarray]]:
    """Embeddings of a study's slides by the models of all seeds that were trained."""
    found = {}
    for path in sorted(cache.glob(f"{study}.patch.*.npz")):
        with np.load(path) as arrays:
            vectors = [arrays[str(adata.obs["slide"].iloc[0])] for adata in slides]
        found[f"trained, seed {path.stem.rpartition('.')[2]}"] = vectors
    return found


def score(slides: list, study: str, cache: Path, *, n_repeats: int) -> pd.DataFrame:
    """Scores of the closed form and of each model, with the protocols of the scoreboard."""
    corpus = corpus_of(slides, n_pool_genes=2000)
    rows = {"stimage": sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)}
    rows |= {name: np.concatenate(vectors) for name, vectors in trained(slides, study, cache).items()}
    protocols = [*(["leave_slide_out"] if len(slides) > 1 else []), "block", "random", "unsupervised"]
    return evaluate_domains(
        rows,
        **facts_of(slides, corpus),
        protocols=protocols,
        heads=["knn"],
        n_repeats=n_repeats,
        n_seeds=1,
        n_seeds_estimated=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("train", "score"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/domains"))
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        slides = simulated_study()
        with tempfile.TemporaryDirectory() as cache:
            options = {"window": 8, "n_pool_genes": 200, "model_kwargs": {"n_genes": 64}, "max_epochs": 1}
            train(slides, "simulated", Path(cache), 0, **options)
            scores = score(slides, "simulated", Path(cache), n_repeats=2)
        print(table_of(scores).to_string())
        return
    if arguments.step is None:
        parser.error("say `train`, `score` or `--short`")
    for study in arguments.studies:
        slides = read_study(arguments.data, study)
        if arguments.step == "train":
            for seed in arguments.seeds:
                train(slides, study, arguments.cache, seed)
        else:
            path = arguments.output / f"{study.replace(' ', '_')}.json"
            spots = {str(adata.obs["slide"].iloc[0]): adata.n_obs for adata in slides}
            stored(score(slides, study, arguments.cache, n_repeats=10), study, path, spots=spots)
            print(f"{study}: scored", flush=True)


if __name__ == "__main__":
    main()
