"""The whole way on a simulated slide: grid, pretraining, embedding, domains, region reconstruction, figures, scores.

    make demo            or            python tutorials/demo.py

Takes a few minutes on two cores and writes its figures to ./demo.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from sklearn.metrics import adjusted_rand_score

import stimage as sti
from stimage import benchmark
from stimage.data import site_positions

OUTPUT = Path("demo")


def ari(adata, labels) -> float:
    return adjusted_rand_score(adata.obs["domain"], labels)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    start = time.perf_counter()
    OUTPUT.mkdir(exist_ok=True)

    adata = sti.datasets.simulate_tissue(seed=0)
    n_domains = adata.obs["domain"].nunique()
    print(f"Simulated slide: {adata.n_obs} spots, {adata.n_vars} genes, {n_domains} layered domains\n")

    sti.pp.compact_grid(adata)
    facts = adata.uns["grid"]["slides"].iloc[0]
    print(
        f"Grid: {facts['layout']}, {facts['n_rows']} x {facts['n_cols']} sites, {facts['occupancy']:.0%} of them tissue"
    )

    model = sti.tl.pretrain(adata, seed=0)
    sti.pl.training(model, save=OUTPUT / "training.png")
    sti.pl.windows(model, save=OUTPUT / "windows.png")

    sti.tl.embed(adata, model)
    sti.tl.domains(adata, n_domains)
    sti.tl.domains(adata, key_added="estimated_domain")
    sti.pl.domains(adata, color=["domain", "stimage_domain"], save=OUTPUT / "domains.png")

    # The model works on counts per 1,000; baselines and errors are of the usual counts per 10,000, as reconstructions are.
    slide = model.corpus[0].to_target_sum(1e4)
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    components = benchmark.principal_components(slide.expression)
    baselines = {
        "PCA of single spots": components,
        "PCA, mean of 7 spots": benchmark.neighbor_mean(components, positions, 7),
        "PCA, mean of 19 spots": benchmark.neighbor_mean(components, positions, 19),
    }
    print(f"\nDomains: adjusted Rand index with the truth ({n_domains} domains given, no refinement)")
    for name, vectors in baselines.items():
        adata.obsm["baseline"] = vectors[slide.site_of_observation]
        sti.tl.domains(adata, n_domains, use_rep="baseline", key_added="baseline_domain")
        print(f"  {name:<24}{ari(adata, adata.obs['baseline_domain']):.3f}")
    for mode in ("visible", "context", "surroundings"):
        sti.tl.embed(adata, model, mode=mode, key_added="X_part")
        sti.tl.domains(adata, n_domains, use_rep="X_part", key_added="part_domain")
        print(f"  {f'stimage, {mode}':<24}{ari(adata, adata.obs['part_domain']):.3f}")
    print(f"  {'stimage, combined':<24}{ari(adata, adata.obs['stimage_domain']):.3f}")
    found = adata.uns["estimated_domain"]["n_domains"]
    print(f"  {f'stimage, {found} estimated':<24}{ari(adata, adata.obs['estimated_domain']):.3f}")

    sti.tl.reconstruct_region(adata, model, size=10, seed=1)
    sti.pl.region_error(adata, save=OUTPUT / "region.png")
    hidden = np.isin(np.arange(slide.n_sites), slide.site_of_observation[adata.obs["stimage_region_masked"].to_numpy()])
    truth = slide.expression[hidden].toarray()
    print(f"\nA region of 10 x 10 sites filled in: mean squared error over {truth.shape[1]} genes")
    for method in (benchmark.gene_mean, benchmark.nearest_spots, benchmark.inverse_distance):
        error = np.square(method(slide.expression, positions, hidden) - truth).mean()
        print(f"  {method.__name__.replace('_', ' '):<24}{error:.4f}")
    print(f"  {'stimage':<24}{adata.uns['stimage_region']['mse']:.4f}")

    minutes = (time.perf_counter() - start) / 60
    print(f"\nFigures are in {OUTPUT}/: windows, training, domains, region. All of it took {minutes:.1f} minutes.")
    print("One simulated slide and one seed rank nothing: see docs/results.md for real slides and several seeds.")


if __name__ == "__main__":
    main()
