from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class MaskRandom(Protocol):
    """Random numbers for the masks of some windows. Each stream is asked for once."""

    def integers(self, stream: str, *shape: int) -> Tensor:
        """Uniform integers below 2^32, int64 (windows x shape)."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Uniform numbers between 0 and 1 (windows x shape)."""


class MaskingRule(ABC):
    """What is hidden in a window. A new rule is a class like this one and an entry of :data:`MASKINGS`.

    One rule serves windows that are cut on the CPU, one at a time, and those that are cut on a device, a batch at a time: it
    works on the tensors of a batch, and draws its random numbers from what it is given.

    Attributes
    ----------
    name
        Key in :data:`MASKINGS`, and ``masking`` of :class:`WindowSpec`.
    hides_values
        Whether single values (sites x genes) are hidden instead of sites.
    may_miss
        Whether :meth:`draw` may hide no observed site or all of them. Single sites are hidden there instead, and training
        warns where that is so in more than one of twenty windows.

    Examples
    --------
    >>> import torch
    >>> import stimage as sti
    >>> class LeftHalf(sti.data.MaskingRule):
    ...     name = "left half"
    ...
    ...     def draw(self, observed, ratio, random):
    ...         return (torch.arange(observed.shape[2]) < observed.shape[2] // 2).expand_as(observed)
    >>> sti.data.MASKINGS["left half"] = LeftHalf()
    >>> spec = sti.data.WindowSpec(masking="left half")
    >>> del sti.data.MASKINGS["left half"]
    """

    name: ClassVar[str]
    hides_values: ClassVar[bool] = False
    may_miss: ClassVar[bool] = True

    @abstractmethod
    def draw(self, observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        """Choose sites to hide.

        Parameters
        ----------
        observed
            Which sites have data (windows x rows x columns).
        ratio
            Share to hide.
        random
            Random numbers: ``random.uniform("angle")`` and ``random.integers("sites", 9)`` give one and nine for each window;
            each name is a stream of its own. The numbers of a window must not depend on the other windows.

        Returns
        -------
        Tensor
            Chosen sites, bool (windows x rows x columns); those without data do not count.
        """

    def limits(self, window: int, ratio: float) -> tuple[int, int]:
        """Most visible and most hidden sites that a window can have, which bound the memory that a model needs.

        Parameters
        ----------
        window
            Rows and columns of the window.
        ratio
            Share to hide.

        Returns
        -------
        tuple of int
            Bounds on visible and hidden sites; by default all sites but one. A rule that knows better saves memory.
        """
        return window**2 - 1, window**2 - 1

    def parts(self, ratio: float) -> list[tuple[float, MaskingRule, float]]:
        """Rules that a window follows, with the share of windows that do and the share that they hide.

        Parameters
        ----------
        ratio
            Share to hide.

        Returns
        -------
        list of tuple
            Share of windows, rule and share to hide; by default this rule alone.
        """
        return [(1.0, self, ratio)]

    def hide(self, observed: Tensor, gene_valid: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        """What is hidden in windows: the sites of :meth:`draw`, of which some are hidden and some are not.

        Parameters
        ----------
        observed
            Which sites have data (windows x rows x columns), at least two in each window.
        gene_valid
            Which genes are real (windows x genes).
        ratio
            Share to hide.
        random
            Random numbers.

        Returns
        -------
        Tensor
            Hidden sites, bool (windows x rows x columns), or values (windows x rows x columns x genes).
        """
        hidden = self.draw(observed, ratio, random) & observed
        if not self.may_miss:
            return hidden
        return torch.where(hides_a_part(observed, hidden)[:, None, None], hidden, single_sites(observed, ratio, random))


def hides_a_part(observed: Tensor, hidden: Tensor) -> Tensor:
    """Whether something is hidden in a window and something is left to predict it from (windows)."""
    n_hidden, n_observed = hidden.sum(dim=(1, 2)), observed.sum(dim=(1, 2))
    return (n_hidden > 0) & (n_hidden < n_observed)


def number_hidden(n_observed: Tensor, ratio: float) -> Tensor:
    """How many of some observed sites are hidden: about a share, at least one and not all."""
    return (ratio * n_observed.double()).round().long().clamp(min=1).minimum(n_observed - 1)


def single_sites(observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
    """Observed sites drawn one by one, as many in each window as :func:`number_hidden` says (windows x rows x columns)."""
    flat = observed.flatten(1)
    n_sites, n_hidden = flat.shape[1], number_hidden(flat.sum(dim=1), ratio)
    # No two keys are equal.
    key = random.integers("sites", n_sites) * n_sites + torch.arange(n_sites, device=flat.device)
    key = key.masked_fill(~flat, torch.iinfo(torch.int64).max)
    last = key.sort(dim=1).values.gather(1, n_hidden.unsqueeze(1) - 1)
    return (key <= last).view_as(observed)
