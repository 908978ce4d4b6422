from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from stimage import _validate

if TYPE_CHECKING:
    from stimage.models import STImage

CHECKPOINTS = ("human",)


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
