from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from stimage import _validate

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models import STImage
    from stimage.pretrained._tissues import KnownTissues

CHECKPOINTS = ("human",)
FEWEST_GENES = 200
"""Genes that slides share with a checkpoint, by name and in its spelling, below which it is not asked about them."""


def load(name: str = "human") -> STImage:
    """Load a checkpoint that ships with the package; nothing is downloaded.

    Parameters
    ----------
    name
        ``"human"``: sections of several human tissues, see the model card ``MODEL_CARD.md`` beside the checkpoint.

    Returns
    -------
    stimage.models.STImage
        The model, a new one with each call.

    Raises
    ------
    ValueError
        If there is no checkpoint of this name, or it is damaged.
    FileNotFoundError
        If the package was installed without its checkpoints.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.pretrained.load("yeast")
    Traceback (most recent call last):
    ValueError: `name` must be one of 'human', found 'yeast'.
    """
    from stimage.models import STImage

    _validate.check_choice("name", name, CHECKPOINTS)
    folder = files(__package__) / name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"The checkpoint {name!r} is not in this installation of stimage: install a release, which contains it, "
            "write it with `benchmarks/pretrain_human.py` of the repository, or pass a `model` of your own from "
            "`stimage.tl.pretrain`."
        )
    with as_file(folder) as directory:
        return STImage.load(directory)


def measures_enough(adatas: Sequence[AnnData], name: str = "human") -> bool:
    """Whether slides measure enough genes of a checkpoint for it to be asked; without reading its weights.

    Parameters
    ----------
    adatas
        The slides.
    name
        The checkpoint.

    Returns
    -------
    bool
        False as well if the package was installed without the checkpoint.
    """
    path = files(__package__) / name / "config.json"
    if not path.is_file():
        return False
    config = json.loads(path.read_text(encoding="utf-8"))
    known = {*config["genes"], *config["ensembl_ids"].values()}
    # Ensembl ids may end in a version.
    return all(
        sum(gene in known or gene.partition(".")[0] in known for gene in adata.var_names) >= FEWEST_GENES
        for adata in adatas
    )


def known_tissues() -> KnownTissues | None:
    """How much each gene varies in the tissues that :func:`stimage.tl.embed` recognises.

    Returns
    -------
    stimage.pretrained.KnownTissues or None
        ``None`` if the package was installed without them.

    Examples
    --------
    >>> import stimage as sti
    >>> "mouse cerebellum" in sti.pretrained.known_tissues().tissues
    True
    """
    from stimage.pretrained._tissues import KnownTissues

    folder = files(__package__) / "tissues"
    if not (folder / "genes.json").is_file():
        return None
    with as_file(folder) as directory:
        return KnownTissues.load(directory / "genes")
