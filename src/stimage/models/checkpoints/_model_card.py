"""The README.md of a shared model, in the form of Hugging Face's model cards."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from stimage import _validate

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

TAGS = ("biology", "spatial-transcriptomics")
_MOST_SLIDES = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,95}")


def check_card_options(license: Any, tags: Any, description: Any) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what cannot stand in a model card."""
    if not isinstance(tags, list | tuple):
        raise TypeError(f"`tags` must be a list of names, found {type(tags).__name__}.")
    for parameter, values in (("license", [] if license is None else [license]), ("tags", tags)):
        for value in values:
            _validate.check_text(parameter, value)
            if not _NAME.fullmatch(value):
                raise ValueError(
                    f"`{parameter}` must be a name such as 'mit' or 'human', of letters, digits and '.-_:+', found "
                    f"{value[:80]!r}."
                )
    if description is not None:
        _validate.check_text("description", description)


def model_card(
    kind: str,
    facts: Mapping[str, str],
    slides: pd.DataFrame,
    *,
    arguments: str,
    license: str | None,
    tags: Sequence[str],
    description: str | None,
) -> str:
    """Text of the card: what the model is, what it was trained on, and how it is loaded.

    Parameters
    ----------
    kind
        Name of the class.
    facts
        Rows of the table, by name.
    slides
        The slides that the model was made from.
    arguments
        What must be passed to load it, beside the source.
    license, tags, description
        As in ``save_pretrained``.

    Returns
    -------
    str
        Markdown.
    """
    front = ["---", "library_name: stimage"]
    if license is not None:
        front.append(f"license: {json.dumps(license)}")
    front += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys((*TAGS, *tags))), "---"]
    facts = {
        "class": f"`stimage.models.{kind}`",
        **facts,
        "slides": f"{len(slides):,} with {sum(slides['n_sites']):,} sites",
        "written by": f"stimage {version('stimage')}",
    }
    table = [f"| {name} | {value} |" for name, value in facts.items()]
    rows = [
        f"| {_cell(slide.name)} | {_cell(slide.donor)} | {slide.n_sites:,} |"
        for slide in slides.head(_MOST_SLIDES).itertuples(index=False)
    ]
    more = [f"\n{len(slides) - _MOST_SLIDES:,} more are named in `config.json`."] if len(slides) > _MOST_SLIDES else []
    parts = [
        *front,
        "",
        f"# {kind} model",
        *([] if description is None else ["", description.strip()]),
        "",
        "| | |\n|---|---|",
        *table,
        "",
        "## Loading",
        "",
        "```python",
        "import stimage as sti",
        "",
        f"model = sti.models.{kind}.from_pretrained(",
        f'    "OWNER/NAME", revision="HASH OF THE COMMIT"{arguments}',
        ")",
        "```",
        "",
        "A local folder is loaded by its path, without `revision`. Weights are safetensors, everything else JSON; checksums",
        "are in `manifest.json`.",
        "",
        "## Training data",
        "",
        "Scores on these slides, and on others of the same donors, are not scores on unseen data.",
        "",
        "| slide | donor | sites |\n| --- | --- | --- |",
        *rows,
        *more,
        "",
    ]
    return "\n".join(parts)


def training_facts(
    module: nn.Module, history: Mapping[str, pd.DataFrame], seed: int, *, trained: bool
) -> dict[str, str]:
    """Rows on the size of a trained module and on its training."""
    losses = history.get("train_loss", ())
    epochs = "yes"
    if len(losses):
        first, last = losses.iloc[0, 0], losses.iloc[-1, 0]
        epochs = f"{len(losses)} epochs, loss {first:.4f} in the first and {last:.4f} in the last"
    return {
        "parameters": f"{sum(parameter.numel() for parameter in module.parameters()):,}",
        "trained": f"{epochs}, seed {seed}" if trained else "not yet",
    }


def _cell(text: str) -> str:
    """A name that cannot break out of a cell of a table."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False)) or "not stated"
