from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stimage import _validate

N_BLOCKS = 5  # blocks per axis


@dataclass(frozen=True)
class Split:
    """Spots that train a head and spots that test it.

    Parameters
    ----------
    train, test
        Positions of the spots in the arrays that were split.
    name
        What is held out: the slide or the donor; of splits within a slide, the slide itself or empty.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import random_split
    >>> split = random_split(10, train_share=0.2)
    >>> len(split.train), len(split.test)
    (2, 8)
    """

    train: np.ndarray
    test: np.ndarray
    name: str = ""


def random_split(n_spots: int, *, train_share: float = 0.2, seed: int = 0) -> Split:
    """A random share of the spots trains, the others test: the paper's protocol.

    Test spots lie among training spots, so coordinates alone score high.

    Parameters
    ----------
    n_spots
        Number of annotated spots of a slide.
    train_share
        Share of training spots.
    seed
        Seed of the split.

    Returns
    -------
    Split
        At least one spot on either side.

    Raises
    ------
    ValueError
        If there are fewer than two spots, or the share is not between 0 and 1.

    Examples
    --------
    >>> from stimage.benchmark import random_split
    >>> random_split(5, train_share=0.4, seed=1).train.tolist()
    [0, 4]

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4.
    """
    _check(n_spots, train_share, seed)
    order = np.random.default_rng(seed).permutation(n_spots)
    n_train = int(np.clip(round(train_share * n_spots), 1, n_spots - 1))
    return Split(np.sort(order[:n_train]), np.sort(order[n_train:]))


def block_split(positions: np.ndarray, *, train_share: float = 0.2, seed: int = 0) -> Split:
    """Blocks of a slide train, the other blocks test, so that most test spots have no training spot beside them.

    The slide is cut at the quintiles of x and of y into 5 x 5 blocks. A class may well lie in no training block.

    Parameters
    ----------
    positions
        Positions of the annotated spots of a slide (spots x 2).
    train_share
        Share of the blocks that train.
    seed
        Seed of their choice.

    Returns
    -------
    Split
        At least one block on either side.

    Raises
    ------
    ValueError
        If the spots fill one block only, or the share is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import block_split
    >>> split = block_split(np.random.default_rng(0).random((1000, 2)))
    >>> 100 < len(split.train) < 300
    True
    """
    positions = np.asarray(positions, dtype=np.float64)
    _check(len(positions), train_share, seed)
    inner = np.linspace(0, 1, N_BLOCKS + 1)[1:-1]
    block = [np.searchsorted(np.quantile(axis, inner), axis, side="right") for axis in positions.T]
    filled, block = np.unique(block[0] * N_BLOCKS + block[1], return_inverse=True)
    if len(filled) < 2:
        raise ValueError("`positions` of all spots are in one block: there is nothing to hold out.")
    n_train = int(np.clip(round(train_share * len(filled)), 1, len(filled) - 1))
    trains = np.isin(block, np.random.default_rng(seed).permutation(len(filled))[:n_train])
    return Split(np.flatnonzero(trains), np.flatnonzero(~trains))


def leave_one_out(groups: np.ndarray, *, parameter: str = "slides") -> list[Split]:
    """Each group (slide, donor) once as the test, all others training.

    Parameters
    ----------
    groups
        Slide or donor of each spot (spots).
    parameter
        What an error calls the groups.

    Returns
    -------
    list of Split
        One for each group, in the order of their first spots.

    Raises
    ------
    ValueError
        If there is one group only.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import leave_one_out
    >>> [(split.name, split.test.tolist()) for split in leave_one_out(np.array(["b", "a", "b"]))]
    [('b', [0, 2]), ('a', [1])]
    """
    groups = np.asarray(groups).astype(str)
    names = list(dict.fromkeys(groups.tolist()))
    if len(names) < 2:
        raise ValueError(f"`{parameter}` has {len(names)} group with annotated spots, leaving one out needs two.")
    return [Split(np.flatnonzero(groups != name), np.flatnonzero(groups == name), name) for name in names]


def _check(n_spots: int, train_share: float, seed: int) -> None:
    if n_spots < 2:
        raise ValueError(f"{n_spots} annotated spots cannot be split: at least 2 are needed.")
    _validate.check_range("train_share", train_share, 0, 1)
    _validate.check_seed(seed)
