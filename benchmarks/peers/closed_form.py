"""stimage's closed form on the exported slides, for its time and memory beside those of the peers.

    python benchmarks/peers/closed_form.py --input INPUT --output OUTPUT/closed_form

Each slide alone, with its grid inferred. Library sizes are those of the gene pool: for scores see the scoreboard, which has all genes.
"""

import numpy as np
from _run import main

import stimage as sti


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    sti.pp.compact_grid(adata)
    sti.tl.embed(adata, model="closed", seed=seed)
    sti.tl.domains(adata, len(set(adata.obs["label"]) - {""}), seed=seed)
    labels = adata.obs["stimage_domain"].to_numpy().astype(np.int32)
    return {"embedding": adata.obsm["X_stimage"], "labels": labels[None], "n_found": np.array([len(np.unique(labels))])}


if __name__ == "__main__":
    main(embed, "stimage", __doc__)
