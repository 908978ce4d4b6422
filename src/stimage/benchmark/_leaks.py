"""Whether a representation's model was trained on a slide that it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHARED_HASHES = (
    8  # of the 64 in a sketch: pairs of barcode and total count that two slides share by chance are far fewer
)


@dataclass(frozen=True)
class EvaluatedSlide:
    """What identifies a slide that is tested."""

    name: str
    donor: str
    counts_sha256: str
    spot_hashes: frozenset[str]


def find_leaks(slides: Sequence[EvaluatedSlide], trained_on: Sequence[Mapping[str, Any]]) -> list[str]:
    """Descriptions of the test slides that are among the training slides of a manifest.

    A slide is recognised by its counts (under any name, with any observation names), by its donor, and by an eighth or more
    of the training slide's pairs of observation name and total count: also when observations were removed.
    """
    found = []
    for slide in slides:
        for training in trained_on:
            sketch = set(training.get("spot_sketch", "").split())
            shared = len(sketch & slide.spot_hashes)
            if slide.counts_sha256 == training["counts_sha256"]:
                reason = "same counts"
            elif slide.donor and slide.donor == training.get("donor", ""):
                reason = f"same donor {slide.donor!r}"
            elif sketch and shared >= min(_SHARED_HASHES, len(sketch)):
                reason = "same spots"
            else:
                continue
            found.append(f"{slide.name!r} ({reason} as {training['name']!r})")
            break
    return found
