from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor,
    groups: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """Contrastive loss of pairs of vectors: each query should be closest to the key of its own row.

    The mean over rows i of ``-log(exp(q_i·k_i/τ) / Σ_j exp(q_i·k_j/τ))`` with vectors of unit length; the keys of the
    other rows of the batch are the negatives.

    Parameters
    ----------
    queries, keys
        Paired vectors (n x dim), of any length: they are L2-normalised here.
    temperature
        τ; a tensor (scalar) when it is learned.
    groups
        Slide of each row (n, integers). Negatives then come from the same slide only, so that differences between
        slides (staining, sequencing depth) do not tell pairs apart. A row that is alone in its slide has a loss of zero.
    symmetric
        Average both directions, query to key and key to query.

    Returns
    -------
    Tensor
        The loss (scalar).

    Raises
    ------
    ValueError
        If the pairs do not match, there are none, or the temperature is not positive.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import info_nce
    >>> round(info_nce(torch.ones(4, 2), torch.ones(4, 2), temperature=0.1).exp().item(), 3)
    4.0

    References
    ----------
    ST-Align, Eq. 10 (``symmetric=True``) and Eq. 11 (``symmetric=False``).
    """
    n_rows = len(queries)
    if queries.dim() != 2 or queries.shape != keys.shape or not n_rows:
        raise ValueError(
            "`queries` and `keys` must be matrices of the same shape with at least one row, found "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}: pass one vector per row."
        )
    if groups is not None and groups.shape != (n_rows,):
        raise ValueError(f"`groups` must have one entry for each of {n_rows} rows, found shape {tuple(groups.shape)}.")
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"`temperature` must be positive, found {temperature}.")
    # Mixed precision would round similarities to three digits before the temperature magnifies them.
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        queries, keys = (functional.normalize(vectors.to(dtype), dim=1) for vectors in (queries, keys))
        scores = queries @ keys.T / temperature
        if groups is not None:
            scores = scores.masked_fill(groups.unsqueeze(0) != groups.unsqueeze(1), -math.inf)
        own = torch.arange(n_rows, device=scores.device)
        loss = functional.cross_entropy(scores, own)
        return (loss + functional.cross_entropy(scores.T, own)) / 2 if symmetric else loss


class Temperature(nn.Module):
    """Temperature of :func:`info_nce`, fixed or learned.

    Its logarithm is what is stored and learned. A learned temperature stays between 0.01 and 1: below, single pairs
    dominate the gradient; above, scores of unit vectors differ too little to tell pairs apart.

    Parameters
    ----------
    initial
        Value at the start; the value, when it is not learned.
    learned
        Whether it is a parameter.

    Examples
    --------
    >>> from stimage.modules import Temperature
    >>> temperature = Temperature(0.1, learned=True)
    >>> round(temperature().item(), 3), len(list(temperature.parameters()))
    (0.1, 1)
    """

    bounds = (0.01, 1.0)
    """Smallest and largest temperature."""

    def __init__(self, initial: float = 0.1, *, learned: bool = False) -> None:
        super().__init__()
        low, high = self.bounds
        if not low <= initial <= high:
            raise ValueError(f"`initial` must be between {low} and {high}, found {initial}.")
        start = torch.tensor(float(initial)).log()
        if learned:
            self.log_value = nn.Parameter(start)
        else:
            self.register_buffer("log_value", start)

    def forward(self) -> Tensor:
        """The temperature (scalar)."""
        # The stored value is clamped, not its use: beyond a bound there would be no gradient that brings it back.
        with torch.no_grad():
            self.log_value.clamp_(*(math.log(bound) for bound in self.bounds))
        return self.log_value.exp()
