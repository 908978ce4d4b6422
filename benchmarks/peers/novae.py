"""novae (Blampey et al. 2025) on the exported slides, trained from scratch on each.

    python benchmarks/peers/novae.py --input INPUT --output OUTPUT/novae

Its published weights are on a hub and are not used: with them it would know other tissue, and its scores would be higher. Defaults of
its training; domains at the true number.
"""

import numpy as np
from _run import main


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    # Imported here, where this file, of the same name, is no longer on the path.
    import lightning
    import novae

    lightning.seed_everything(seed, verbose=False)
    n_domains = len(set(adata.obs["label"]) - {""})
    adata.X = adata.layers["log"].copy()
    novae.spatial_neighbors(adata, coord_type="generic")
    model = novae.Novae(adata)
    model.fit(accelerator="cpu", num_workers=0, enable_progress_bar=False, logger=False)
    model.compute_representations(adata, accelerator="cpu", num_workers=0)
    key = model.assign_domains(adata, n_domains=n_domains)
    vectors = np.asarray(adata.obsm["novae_latent"], dtype=np.float32)
    labels = adata.obs[key].astype("category").cat.codes.to_numpy().astype(np.int32)
    return {"embedding": vectors, "labels": labels[None], "n_found": np.array([len(np.unique(labels))])}


if __name__ == "__main__":
    main(embed, "novae", __doc__)
