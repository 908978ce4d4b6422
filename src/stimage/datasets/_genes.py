"""Genes of a simulated tissue: what each cell type expresses, what modulates it, and how it is counted."""

import numpy as np
import pandas as pd
from scipy import sparse

_ROWS_AT_ONCE = 4096  # bounds the dense rates and counts held at any moment

# Chosen so that simulated slides look like labelled real ones by the statistics of benchmarks/simulated_tissue.py.
# Mean expression is gamma distributed: its logarithm has a long lower tail and a short upper one, as on cortex (Maynard et al. 2021),
# where no gene has more than a hundredth of the counts.
_EXPRESSION_SHAPE = 0.35
_EXPRESSION_FLOOR = 1e-3  # genes without any counts are rarely kept in a file
_HOUSEKEEPING = 1.0  # log fold by which housekeeping genes are expressed more

# Standard deviations of log expression, unless said otherwise.
_COMPARTMENT_LOADING = (
    1.7  # grey and white matter, tumour and stroma: most of the first axis of a real slide, nearly all genes
)
_MARKER_SCALE = 0.45  # of the gamma distribution of markers, which are raised by twice as much on average
_TYPE_LOADING = 0.05  # any other difference between types
_STATE_LOADING = 0.05  # cell state (stress, cycle): per spot, without spatial structure
_PROGRAMME_LOADINGS = np.array([0.144, 0.128, 0.112, 0.096, 0.084, 0.072, 0.06, 0.048])  # the strongest is axis 2 or 3
N_PROGRAMMES = len(_PROGRAMME_LOADINGS)

# Of the gamma distribution of inverse dispersions. Neighbouring spots of cortex of cortex have a median of 55
# for frequent genes, a few below 5.
_DISPERSION_SHAPE, _DISPERSION_SCALE, _DISPERSION_FLOOR = 4.0, 8.0, 2.0


class Genes:
    """Expression of each cell type, and what modulates it.

    `compartment` (n_types,) lies between 0 and 1: types of one compartment share the genes that tell it from the other.
    """

    def __init__(self, n_genes: int, compartment: np.ndarray, rng: np.random.Generator) -> None:
        n_types = len(compartment)
        role = rng.choice(["housekeeping", "marker", "programme", "background"], n_genes, p=[0.1, 0.3, 0.3, 0.3])
        self.var = pd.DataFrame({"role": pd.Categorical(role)}, index=[f"GENE{i + 1:05d}" for i in range(n_genes)])
        varied = role != "housekeeping"
        base = np.log(rng.gamma(_EXPRESSION_SHAPE, size=n_genes) + _EXPRESSION_FLOOR) + _HOUSEKEEPING * ~varied
        # A marker is raised in one to three types, some of them shared between domains.
        raised = rng.random((n_types, n_genes)) < 2 / n_types
        effect = raised * rng.gamma(2.0, _MARKER_SCALE, (n_types, n_genes)) * (role == "marker")
        effect += rng.normal(0, _TYPE_LOADING, (n_types, n_genes)) * varied
        effect += np.outer(compartment, rng.normal(0, _COMPARTMENT_LOADING, n_genes) * varied)
        self._signature = np.exp(base + effect)
        # All types have as much of housekeeping genes: what one expresses more of, it makes up for elsewhere.
        self._signature[:, varied] *= np.exp(base[varied]).sum() / self._signature[:, varied].sum(axis=1, keepdims=True)
        self._programme = _PROGRAMME_LOADINGS[:, None] * rng.normal(size=(N_PROGRAMMES, n_genes))
        self._programme *= role == "programme"
        # A programme is carried by some types more than by others, so that it is stronger in some domains.
        self._activity = rng.uniform(0, 2, (n_types, N_PROGRAMMES))
        self._state = rng.normal(0, _STATE_LOADING, (2, n_genes)) * varied
        self.var["inverse_dispersion"] = rng.gamma(_DISPERSION_SHAPE, _DISPERSION_SCALE, n_genes) + _DISPERSION_FLOOR

    def counts(
        self,
        proportions: np.ndarray,
        programmes: np.ndarray,
        depth: np.ndarray,
        batch: np.ndarray,
        rng: np.random.Generator,
    ) -> sparse.csr_matrix:
        """Counts (n_obs, n_genes) of observations with these cell types, programmes and depths."""
        theta = self.var["inverse_dispersion"].to_numpy()
        active = programmes * (proportions @ self._activity)
        blocks = []
        for start in range(0, len(depth), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            state = rng.normal(size=(len(depth[rows]), len(self._state)))
            rate = proportions[rows] @ self._signature
            rate *= np.exp(active[rows] @ self._programme + state @ self._state + batch)
            rate *= depth[rows, None] / rate.sum(axis=1, keepdims=True)
            rate *= rng.gamma(theta, 1 / theta, rate.shape)
            blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
        return sparse.vstack(blocks, format="csr")
