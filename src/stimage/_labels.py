"""Labels of observations as text: what counts as missing, what is one class, and in which order classes come."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage._messages import listing

if TYPE_CHECKING:
    import pandas as pd

_MISSING = {"", "nan", "na", "n/a", "none", "null", "<na>"}
"""What missing labels read like after a detour through text files or `astype(str)`, in lower case."""


def reads_missing(label: str) -> bool:
    """Whether a label reads like a missing value."""
    return label.strip().lower() in _MISSING


def text_labels(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels as text (observations), empty where there is none, and which observations have one.

    Labels equal as text are one, such as 1 and "1"; those that read like a missing value are none.
    """
    import pandas as pd

    values = pd.Series(np.asarray(values, dtype=object))
    missing = values.isna().to_numpy()
    text = np.array(
        ["" if none else str(value).strip() for value, none in zip(values, missing, strict=True)], dtype=object
    )
    missing = missing | np.array([reads_missing(label) for label in text], dtype=bool)
    text[missing] = ""
    return text.astype(str), ~missing


def warn_of_missing_names(values: Any, where: str, *, stacklevel: int = 3) -> None:
    """Warn of labels that are text but read like a missing value."""
    import pandas as pd

    values = pd.Series(np.asarray(values, dtype=object))
    present = values[values.notna()].astype(str)
    named = present[np.array([reads_missing(label) for label in present], dtype=bool)]
    if len(named):
        warnings.warn(
            f"{where} has {len(named)} labels that read like a missing value ({listing(named.unique(), 3)}): they count as "
            "missing.",
            UserWarning,
            stacklevel=stacklevel,
        )


def label_categories(values: pd.Series, where: str) -> pd.Categorical:
    """Labels as a categorical of text, with a warning of those that read like a missing value.

    Categories of a categorical keep their order, others come in natural order.
    """
    import pandas as pd

    warn_of_missing_names(values, where, stacklevel=4)
    text, known = text_labels(values)
    if isinstance(values.dtype, pd.CategoricalDtype):
        order, is_label = text_labels(values.cat.categories)
        categories = list(dict.fromkeys(order[is_label].tolist()))
    else:
        categories = natural_order(set(text[known].tolist()))
    return pd.Categorical(np.where(known, text.astype(object), None), categories=categories)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names in the order that people count in: "2" before "10"."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts if part]

    return sorted(names, key=lambda name: (key(name), name))
