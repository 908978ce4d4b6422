"""Settings of scvi-tools that stimage keeps to."""

from __future__ import annotations


def seed_of(seed: int | None) -> int:
    """A seed; ``None`` stands for ``scvi.settings.seed``, or 0 when that is not set."""
    if seed is not None:
        return seed
    from scvi import settings

    return 0 if settings.seed is None else int(settings.seed)
