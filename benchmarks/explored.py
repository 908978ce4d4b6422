"""What was tried for the embedding, on every labelled slide: other scales, weights of genes, kernels, views and codes.

    python benchmarks/explored.py --data ../shared/data     # docs/results/explored.json; needs the cache of domains.py
    python benchmarks/explored.py --short                   # simulated, seconds, writes nothing

The linear variants need no model: principal components of all slides of a study, centred per slide, smoothed in space.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _studies import STUDIES, read_study, simulated_study
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

import stimage as sti
from stimage import benchmark
from stimage.data import site_positions
from stimage.models._codebook import Codebook
from stimage.models._setup import corpus_of

Parts = list[np.ndarray]
"""An array (sites x dimensions) for each slide of a study."""


def kernel(positions: np.ndarray, width: float, *, itself: bool = True) -> sparse.csr_matrix:
    """Gaussian weights of the nearest sites, rows summing to one."""
    n_near = min(120, len(positions))
    distance, near = cKDTree(positions).query(positions, k=n_near)
    weight = np.exp(-0.5 * (distance / width) ** 2)
    if not itself:
        weight[:, 0] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    return sparse.csr_matrix((weight.ravel(), (np.repeat(np.arange(len(positions)), n_near), near.ravel())))


def predictive_width(components: np.ndarray, positions: np.ndarray) -> float:
    """Width at which the other sites predict a site best."""
    widths = (0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
    centred = components - components.mean(axis=0)
    errors = [np.square(centred - kernel(positions, width, itself=False) @ centred).sum() for width in widths]
    return widths[int(np.argmin(errors))]


def components(slides: list, positions: Parts, *, target_sum: float, gene_weight: str = "none") -> Parts:
    """Principal components (30) of a study, centred per slide."""
    centred = [slide.to_target_sum(target_sum).expression.toarray() for slide in slides]
    centred = [part - part.mean(axis=0) for part in centred]
    stacked = np.concatenate(centred)
    deviation = np.sqrt(np.square(stacked).mean(axis=0))
    scale = 1 / np.maximum(deviation, np.median(deviation))
    if gene_weight == "spatial autocorrelation":
        near = [kernel(place, 1.0, itself=False) @ part for part, place in zip(centred, positions, strict=True)]
        shared = (stacked * np.concatenate(near)).mean(axis=0)
        weight = np.maximum(shared / np.maximum(np.square(deviation), 1e-9), 0)
    else:
        weight = {"none": 1.0, "unit variance": scale, "root of unit variance": np.sqrt(scale)}[gene_weight]
    n_components = min(30, *(n - 1 for n in stacked.shape))
    axes = PCA(n_components, random_state=0).fit(stacked * weight).components_
    return [(part * weight) @ axes.T for part in centred]


def unit(parts: Parts) -> Parts:
    spread = np.sqrt(np.concatenate(parts).var(axis=0).sum())
    return [part / spread for part in parts]


def beside(*groups: Parts) -> Parts:
    return [np.hstack(parts) for parts in zip(*groups, strict=True)]


def codes(*views: Parts) -> Parts:
    stacked = [np.concatenate(view) for view in views]
    bounds = np.cumsum([len(part) for part in views[0]])[:-1]
    return np.split(Codebook.fit(stacked, seed=0)(stacked), bounds)


def linear_variants(slides: list, positions: Parts) -> dict[str, Parts]:
    def smooth(parts: Parts, width: float) -> Parts:
        return [kernel(place, width) @ part for part, place in zip(parts, positions, strict=True)]

    variants = {}
    for target_sum in (1e4, 1e3):
        plain = components(slides, positions, target_sum=target_sum)
        variants |= {f"counts per {target_sum:,.0f}, width {w}": smooth(plain, w) for w in (1.0, 2.0, 3.0)}
    for gene_weight in ("unit variance", "root of unit variance", "spatial autocorrelation"):
        weighted = components(slides, positions, target_sum=1e3, gene_weight=gene_weight)
        variants[f"counts per 1,000, genes by {gene_weight}, width 2.0"] = smooth(weighted, 2.0)
    widths = [predictive_width(part, place) for part, place in zip(plain, positions, strict=True)]
    scales = [
        [kernel(place, f * w) @ part for part, place, w in zip(plain, positions, widths, strict=True)]
        for f in (1.0, 1.4, 2.0)
    ]
    variants["counts per 1,000, width that predicts best x 1.4"] = scales[1]
    variants["the same beside codes"] = beside(unit(scales[1]), unit(codes(*scales)))
    return variants


def model_variants(slides: list, model: sti.models.STImage) -> dict[str, Parts]:
    views = {}
    for name in ("visible", "context", "surroundings"):
        parts = []
        for slide in slides:
            observations = np.unique(slide.site_of_observation, return_index=True)[1]
            vectors = model.get_latent_representation(sti.data.Corpus([slide], model.vocabulary), mode=name)
            parts.append(vectors[observations])
        views[name] = unit(parts)
    visible, context, surroundings = views.values()
    near = beside(visible, context)
    half = [0.5 * part for part in visible]
    found = unit(codes(context, surroundings, near))
    wide = beside(half, context, surroundings)
    return {
        "visible": visible,
        "context": context,
        "surroundings": surroundings,
        "visible, context": near,
        "visible x .5, context, surroundings": wide,
        "visible, context, surroundings": beside(near, surroundings),
        "codes": found,
        "visible x .5, context, surroundings, codes x 1.2": beside(wide, [1.2 * part for part in found]),
        "visible, context, surroundings, codes": beside(near, surroundings, found),
    }


def scores(parts: Parts, slides: list, labels: Parts, positions: Parts, n_seeds: int) -> dict[str, dict[str, float]]:
    parts = [part[slide.site_of_observation] for part, slide in zip(parts, slides, strict=True)]
    options = {"n_repeats": 5, "n_seeds": n_seeds, "heads": ["knn"], "n_seeds_estimated": 0}
    names = [slide.name for slide in slides]
    protocols = ["block", "unsupervised", *(["leave_slide_out"] if len(slides) > 1 else [])]
    records = benchmark.evaluate_domains(
        {"variant": np.concatenate(parts)},
        labels=np.concatenate(labels),
        slides=np.repeat(names, [len(part) for part in parts]),
        positions=np.concatenate(
            [place[slide.site_of_observation] for place, slide in zip(positions, slides, strict=True)]
        ),
        protocols=protocols,
        **options,
    )
    records = records[records["slide"] != "pooled"]
    result = {}
    for protocol, metric in {"block": "accuracy", "leave_slide_out": "accuracy", "unsupervised": "ari"}.items():
        chosen = records[records["protocol"] == protocol]
        result[protocol] = {name: float(value) for name, value in chosen.groupby("slide")[metric].mean().items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/explored.json"))
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    results: dict[str, dict] = {}
    for study in ("simulated",) if arguments.short else arguments.studies:
        adatas = simulated_study() if arguments.short else read_study(arguments.data, study)
        if arguments.short:
            options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1}
            model = sti.tl.pretrain(adatas, enable_progress_bar=False, **options)
        else:
            model = sti.models.STImage.load(arguments.cache / f"{study}.patch.0")
        slides = corpus_of(adatas, model.vocabulary).slides
        labels = [adata.obs["label"].to_numpy(dtype=object) for adata in adatas]
        positions = [site_positions(*s.site_index.T, layout=s.layout, parity=s.parity) for s in slides]
        groups = {"linear": linear_variants(slides, positions), "model": model_variants(slides, model)}
        for group, variants in groups.items():
            for name, parts in variants.items():
                entry = scores(parts, slides, labels, positions, 1 if arguments.short else 3)
                results.setdefault(group, {}).setdefault(name, {})[study] = entry
                print(
                    study,
                    name,
                    {k: round(float(np.mean(list(v.values()))), 3) for k, v in entry.items() if v},
                    flush=True,
                )
        if not arguments.short:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
