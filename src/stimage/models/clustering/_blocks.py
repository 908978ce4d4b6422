from __future__ import annotations

from collections.abc import Iterator

ROWS_AT_A_TIME = 65_536


def row_blocks(n: int) -> Iterator[slice]:
    """Slices that go through ``n`` rows, so that what is computed of them in double precision stays small."""
    for start in range(0, n, ROWS_AT_A_TIME):
        yield slice(start, min(start + ROWS_AT_A_TIME, n))
