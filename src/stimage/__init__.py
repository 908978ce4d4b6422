"""Spatial transcriptomics as croppable multi-channel images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stimage._paths import give_numba_a_cache

if TYPE_CHECKING:
    from . import benchmark, data, datasets, io, models, modules, pl, pp, pretrained, tl, train

__all__ = ["benchmark", "data", "datasets", "io", "models", "modules", "pl", "pp", "pretrained", "tl", "train"]

__version__: str

give_numba_a_cache()


def __getattr__(name: str) -> Any:
    # Subpackages bring in torch, scvi-tools and squidpy, which take seconds: they load on first use.
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
