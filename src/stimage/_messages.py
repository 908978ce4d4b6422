"""Parts of messages."""

from __future__ import annotations

from collections.abc import Iterable


def listing(names: Iterable[object], limit: int = 10) -> str:
    """Names for a message: the first few, quoted, and how many more there are."""
    names = [repr(str(name)) for name in names]
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
