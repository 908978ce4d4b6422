"""The default embedding beside plain means at matched normalisation and axes, on every labelled slide.

    python benchmarks/scoreboard.py --data ../shared/data     # docs/results/scoreboard/<study>.json (skips what is there)
    python benchmarks/scoreboard.py --short                   # simulated, seconds, writes nothing

Rows are fixed beforehand. All are fitted to the slides of a study together, without labels (transductive), but for those called
"each slide alone" and for the inductive column, in which axes and codes come from the other slides of the study.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import STUDIES, read_study, simulated_study

import stimage as sti
from stimage.benchmark import evaluate_domains, neighbor_mean, principal_components
from stimage.data import Corpus, site_positions
from stimage.models._setup import corpus_of
from stimage.models.embedding._axes import own_axes
from stimage.models.embedding._inference import project

SIZES = (7, 19, 37)
FEW = (
    "stimage",
    "per 1,000, 30 axes, mean of 7",
    "per 1,000, 30 axes, mean of 19",
    "per 10,000, 30 axes, mean of 19",
    "axes of the closed form, mean of 19",
)
"""Rows whose number of domains is estimated too, and that are also clustered by Gaussian mixtures, with ten seeds."""
OUTPUT = Path("docs/results/scoreboard")


def parts_of(corpus: Corpus, of_sites: list[np.ndarray]) -> np.ndarray:
    """Vectors of the observations, from those of the sites of each slide."""
    return np.concatenate([v[slide.site_of_observation] for v, slide in zip(of_sites, corpus, strict=True)])


def plain_rows(corpus: Corpus, fitted: Corpus | None = None) -> dict[str, list[np.ndarray]]:
    """Means of principal components of each slide's sites, at every normalisation and number of axes."""
    rows = {}
    for target in (1e3, 1e4):
        slides, source = corpus.to_target_sum(target), (fitted or corpus).to_target_sum(target)
        axes, _ = sti.data.principal_genes(list(source), 128)
        for n_axes in (30, 128):
            scores = [slide.expression @ axes[:, :n_axes] - slide.gene_mean @ axes[:, :n_axes] for slide in slides]
            name = f"per {target:,.0f}, {n_axes} axes"
            if n_axes == 30:
                rows[f"{name}, one spot"] = scores
            for size in SIZES:
                rows[f"{name}, mean of {size}"] = means(slides, scores, size)
    # The axes that the closed form takes, in which no gene leads on large slides.
    slides = corpus.to_target_sum(1e3)
    axes = own_axes(list((fitted or corpus).to_target_sum(1e3)))
    scores = [slide.expression @ axes - slide.gene_mean @ axes for slide in slides]
    for size in SIZES:
        rows[f"axes of the closed form, mean of {size}"] = means(slides, scores, size)
    return rows


def means(slides: Corpus, vectors: list[np.ndarray], size: int) -> list[np.ndarray]:
    return [neighbor_mean(v, positions_of(slide), size) for v, slide in zip(vectors, slides, strict=True)]


def positions_of(slide) -> np.ndarray:
    return site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(np.float64)


def nichepca(corpus: Corpus) -> list[np.ndarray]:
    """NichePCA: the mean of 25 spots of the expression, then 30 components (Schaub et al. 2025)."""
    averaged = means(corpus, [slide.expression.toarray() for slide in corpus.to_target_sum(1e4)], 25)
    centred = np.concatenate([part - part.mean(axis=0) for part in averaged])
    bounds = np.cumsum([slide.n_sites for slide in corpus])[:-1]
    return np.split(principal_components(centred), bounds)


def untrained(adatas: list) -> dict[str, list[np.ndarray]]:
    """Gene tokens of a model that was not trained."""
    model = sti.models.STImage(adatas, window=4)
    tokens = [project(model.module, slide).detach().cpu().numpy() for slide in model.corpus]
    return {f"untrained model, mean of {size}": means(model.corpus, tokens, size) for size in (7, 19)}


def facts_of(adatas: list, corpus: Corpus) -> dict[str, np.ndarray]:
    """Labels, slides and positions of the observations of a study."""
    labels = [
        np.asarray(a.obs["label"], dtype=object)[s.observation_index] for a, s in zip(adatas, corpus, strict=True)
    ]
    return {
        "labels": np.concatenate(labels),
        "slides": np.concatenate([np.repeat(slide.name, len(slide.observation_index)) for slide in corpus]),
        "positions": parts_of(corpus, [positions_of(slide) for slide in corpus]),
    }


def table_of(records: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each slide and method, over splits or seeds."""
    keys = ["protocol", "head", "method", "slide"]
    metrics = ["accuracy", "macro_f1", "ari", "nmi", "n_domains"]
    records = records[records["slide"] != "pooled"]
    return records.groupby(keys, sort=False)[metrics].mean().round(5).reset_index()


def stored(records: pd.DataFrame, study: str, path: Path, **facts) -> None:
    """Write the scores of a study, and other facts."""
    table = table_of(records)
    content = {"study": study, "versions": {"stimage": sti.__version__}, "columns": list(table.columns), **facts}
    content["records"] = [
        [None if isinstance(v, float) and np.isnan(v) else v for v in row] for row in table.to_numpy().tolist()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=None, separators=(",", ":")).replace("],[", "],\n[") + "\n")


def score(adatas: list, *, n_repeats: int, n_seeds: int) -> pd.DataFrame:
    corpus = corpus_of(adatas, n_pool_genes=2000)
    facts = facts_of(adatas, corpus)
    rows = {"coordinates only": facts["positions"]}
    plain = {**plain_rows(corpus), "NichePCA": nichepca(corpus), **untrained(adatas)}
    rows |= {name: parts_of(corpus, vectors) for name, vectors in plain.items()}
    rows["stimage"] = sti.models.SmoothedPCA(corpus).get_latent_representation(corpus)
    options = {"heads": ["knn"], "n_repeats": n_repeats}
    several = len(corpus) > 1
    spread = [*(["leave_slide_out"] if several else []), "block", "random"]
    records = [evaluate_domains(rows, **facts, protocols=spread, **options)]
    averages = ("per 1,000, 30 axes, mean of 19", "axes of the closed form, mean of 19")
    alone = {f"{name}, each slide alone": [] for name in ("stimage", *averages)}
    for adata in adatas:
        own = corpus_of(adata, n_pool_genes=2000)
        alone["stimage, each slide alone"].append(sti.models.SmoothedPCA(own).get_latent_representation(own))
        plain = plain_rows(own)
        for name in averages:
            alone[f"{name}, each slide alone"].append(parts_of(own, plain[name]))
    alone = {
        name: np.concatenate([part[:, : min(p.shape[1] for p in parts)] for part in parts])
        for name, parts in alone.items()
    }
    records.append(evaluate_domains(alone, **facts, protocols=["block", "random"], **options))
    # k-means of a hundred starts hardly depends on the seed; mixtures do, and are asked ten times.
    unsupervised = {"protocols": ["unsupervised"], "heads": ["knn"]}
    every = {**rows, **alone}
    records.append(evaluate_domains(every, **facts, **unsupervised, n_seeds=1, n_seeds_estimated=0))
    few = {name: rows[name] for name in FEW}
    estimated = evaluate_domains(few, **facts, **unsupervised, n_seeds=1, n_seeds_estimated=1)
    records.append(estimated[estimated["head"] == "estimated_number"])
    mixtures = evaluate_domains(few, **facts, **unsupervised, n_seeds=n_seeds, n_seeds_estimated=0, clusterings=["gmm"])
    records.append(mixtures.assign(head="true_number_gmm"))
    if several:
        records.append(inductive(corpus, facts))
    return pd.concat(records, ignore_index=True)


def inductive(corpus: Corpus, facts: dict) -> pd.DataFrame:
    """Leave-slide-out with axes and codes from the training slides alone."""
    records = []
    for held_out in range(len(corpus)):
        others = [slide for number, slide in enumerate(corpus) if number != held_out]
        if facts_known(facts, corpus[held_out].name) == 0:
            continue
        fitted = Corpus(others, corpus.vocabulary)
        rows = {name: parts_of(corpus, vectors) for name, vectors in plain_rows(corpus, fitted).items()}
        rows["stimage"] = sti.models.SmoothedPCA(fitted).get_latent_representation(corpus)
        found = evaluate_domains(rows, **facts, protocols=["leave_slide_out"], heads=["knn"])
        records.append(found[found["slide"] == corpus[held_out].name].assign(protocol="leave_slide_out_inductive"))
    return pd.concat(records, ignore_index=True)


def facts_known(facts: dict, name: str) -> int:
    return int(pd.Series(facts["labels"])[facts["slides"] == name].notna().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        records = score(simulated_study(), n_repeats=2, n_seeds=2)
        print(table_of(records).groupby(["protocol", "head", "method"])["ari"].mean().round(3).to_string())
        return
    for study in arguments.studies:
        path = arguments.output / f"{study.replace(' ', '_')}.json"
        if path.exists():
            continue
        start = time.perf_counter()
        records = score(read_study(arguments.data, study), n_repeats=10, n_seeds=10)
        stored(records, study, path)
        print(f"{study}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
