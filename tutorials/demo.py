"""The whole way on simulated tissue: grid, embedding and domains in seconds, then training and a region that it fills in.

    make demo            or            python tutorials/demo.py

Takes a few minutes on two cores, most of them for training, and writes its figures to ./demo.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import scvi
from sklearn.metrics import adjusted_rand_score

import stimage as sti
from stimage import benchmark
from stimage.data import Corpus, site_positions

OUTPUT = Path("demo")
SEEDS = range(5)


def baselines(adata) -> dict[str, np.ndarray]:
    """Means of principal components of the observations, with the normalisation and the number of axes of ours."""
    genes = sti.pp.select_genes(adata, n_genes=2000).genes
    slide = Corpus.from_anndata(adata, genes=genes).to_target_sum(1e3)[0]
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    components = benchmark.principal_components(slide.expression)
    rows = {"principal components of single spots": components}
    rows |= {f"their mean over {n} spots": benchmark.neighbor_mean(components, positions, n) for n in (7, 19, 37)}
    return {name: vectors[slide.site_of_observation] for name, vectors in rows.items()}


def found_domains(seed: int) -> dict[str, float]:
    """How well domains of one simulated slide are found, by method: adjusted Rand index, the number given."""
    adata = sti.datasets.simulate_tissue(seed=seed)
    sti.pp.compact_grid(adata)
    sti.tl.embed(adata)
    scores = {}
    for name, vectors in {**baselines(adata), "stimage": adata.obsm["X_stimage"]}.items():
        adata.obsm["X_row"] = vectors
        sti.tl.domains(adata, adata.obs["domain"].nunique(), use_rep="X_row", key_added="found")
        scores[name] = adjusted_rand_score(adata.obs["domain"], adata.obs["found"])
    return scores


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.verbosity = logging.WARNING
    OUTPUT.mkdir(exist_ok=True)
    adata = sti.datasets.simulate_tissue(seed=0)
    n_domains = adata.obs["domain"].nunique()
    print(f"A simulated slide: {adata.n_obs} spots, {adata.n_vars} genes, {n_domains} layers\n")

    start = time.perf_counter()
    sti.pp.compact_grid(adata)
    sti.tl.embed(adata)
    sti.tl.domains(adata, n_domains)
    print(f"Grid, embedding and domains, without training: {time.perf_counter() - start:.1f} s")
    sti.pl.domains(adata, color=["domain", "stimage_domain"], save=OUTPUT / "domains.png")
    sti.tl.domains(adata, key_added="estimated")
    print(f"Domains when no number is given: {adata.uns['estimated']['n_domains']}\n")

    print(
        f"How well the layers are found on {len(SEEDS)} such slides (adjusted Rand index, mean and range, number given):"
    )
    scores = [found_domains(seed) for seed in SEEDS]
    for name in scores[0]:
        values = [each[name] for each in scores]
        print(f"  {name:<38}{np.mean(values):.3f}   {min(values):.3f} to {max(values):.3f}")

    print("\nTraining on the slide, for what needs a model: regions that are hidden or were lost")
    start = time.perf_counter()
    model = sti.tl.pretrain(adata, seed=0, trainer_kwargs={"enable_progress_bar": False})
    print(f"Trained in {time.perf_counter() - start:.0f} s")
    sti.pl.training(model, save=OUTPUT / "training.png")
    sti.pl.windows(model, save=OUTPUT / "windows.png")
    sti.tl.reconstruct_region(adata, model, size=10, seed=1)
    sti.pl.region_error(adata, save=OUTPUT / "region.png")

    # Baselines and errors are of log1p of counts per 10,000, as reconstructions are.
    slide = model.corpus[0].to_target_sum(1e4)
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    hidden = np.isin(np.arange(slide.n_sites), slide.site_of_observation[adata.obs["stimage_region_masked"].to_numpy()])
    truth = slide.expression[hidden].toarray()
    print(f"A region of 10 x 10 sites filled in: mean squared error over {truth.shape[1]} genes")
    for method in (benchmark.gene_mean, benchmark.nearest_spots, benchmark.inverse_distance, benchmark.smooth_fill):
        error = np.square(method(slide.expression, positions, hidden) - truth).mean()
        print(f"  {method.__name__.replace('_', ' '):<38}{error:.4f}")
    print(f"  {'stimage, trained':<38}{adata.uns['stimage_region']['mse']:.4f}")

    print(f"\nFigures are in {OUTPUT}/: domains, training, windows, region.")
    print("Simulated slides rank nothing: see docs/results.md for real ones.")


if __name__ == "__main__":
    main()
