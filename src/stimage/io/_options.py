"""What a reader can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Options:
    """Options of :func:`stimage.io.read`; ``None`` where nothing was asked for."""

    layer: str | None = None
    table: str | None = None
    coordinate_system: str | None = None
    bin_size: int | None = None
    images: bool = True

    def given(self) -> list[str]:
        """Names of the options that some formats have and others have not, as far as they were passed."""
        return [
            field.name for field in fields(self) if field.name != "images" and getattr(self, field.name) is not None
        ]
