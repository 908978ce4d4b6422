from __future__ import annotations

import re

_ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d+)(?:\.\d+)?")


def ensembl_id(name: str) -> str | None:
    """The Ensembl id of a gene that a name is, without its version; ``None`` for other names."""
    found = _ENSEMBL_ID.fullmatch(name)
    return found[1] if found else None
