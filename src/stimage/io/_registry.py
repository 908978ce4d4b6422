"""All formats that are read. A new one is a file with its reader and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stimage._validate import listing
from stimage.io import _hest, _instruments, _space_ranger, _spatialdata, _stereo_seq, _stimage_1k4m
from stimage.io._anndata import read_h5ad_file
from stimage.io._choice import Options

if TYPE_CHECKING:
    from anndata import AnnData


def _whole(path: Path) -> list[Path]:
    """All files of a folder, or the file."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _folder_or_stem(path: Path) -> str:
    return path.resolve().name.removesuffix(path.suffix) if path.suffix in (".h5ad", ".zarr") else path.resolve().name


@dataclass(frozen=True)
class Format:
    """A format.

    Parameters
    ----------
    name
        What it is called in messages.
    detect
        Whether a path is of this format, from its name and what lies beside it; nothing is read.
    read
        Reader of one slide, or of several in one AnnData.
    options
        Options of :func:`stimage.io.read` that the reader takes, beside ``images``.
    slide_name
        What identifies the slide, as far as the path says it.
    files
        Files that determine the slide, which are hashed to recognise it.
    """

    name: str
    detect: Callable[[Path], bool]
    read: Callable[[Path, Options], AnnData]
    options: tuple[str, ...] = ()
    slide_name: Callable[[Path], str] = _folder_or_stem
    files: Callable[[Path], list[Path]] = _whole


FORMATS = (
    Format("HEST-1k", _hest.is_hest, _hest.read_hest, ("layer",), files=_hest.files_of_hest),
    Format("AnnData", lambda path: path.is_file() and path.suffix == ".h5ad", read_h5ad_file, ("layer",)),
    Format(
        "SpatialData or AnnData in zarr",
        _spatialdata.is_zarr,
        _spatialdata.read_zarr_store,
        ("layer", "table", "coordinate_system"),
    ),
    Format(
        "STimage-1K4M",
        _stimage_1k4m.is_slide,
        _stimage_1k4m.read_slide,
        slide_name=_stimage_1k4m.name_of_slide,
        files=_stimage_1k4m.files_of_slide,
    ),
    Format(
        "Stereo-seq GEM", _stereo_seq.is_gem, _stereo_seq.read_gem, ("bin_size",), slide_name=_stereo_seq.name_of_gem
    ),
    Format(
        "Space Ranger",
        _space_ranger.is_space_ranger,
        _space_ranger.read_space_ranger,
        slide_name=_space_ranger.name_of_output,
        files=_space_ranger.files_of_output,
    ),
    Format("Xenium", _instruments.is_xenium, _instruments.read_xenium),
    Format("CosMx", _instruments.is_cosmx, _instruments.read_cosmx),
    Format("MERSCOPE", _instruments.is_merscope, _instruments.read_merscope),
)


def read_as(format: Format, path: Path, options: Options, label: str = "") -> AnnData:
    """What a reader returns; errors of libraries for files that are damaged become ``ValueError``, begun with ``label``."""
    try:
        return format.read(path, options)
    except (KeyError, TypeError, ValueError, ImportError, FileNotFoundError):
        raise
    except Exception as error:
        # Each format has errors of its own for a file that is damaged.
        raise ValueError(f"{label}it cannot be read ({type(error).__name__}: {error!s:.300}).") from error


def format_of(path: Path, parameter: str) -> Format:
    """The format of a path; raise ``FileNotFoundError`` or ``ValueError`` where there is none."""
    from stimage.io._collections import collection_of

    if not path.exists():
        raise FileNotFoundError(f"`{parameter}`: there is no {str(path)!r}.")
    for format in FORMATS:
        if format.detect(path):
            return format
    collection = collection_of(path)
    if collection is not None:
        raise ValueError(
            f"`{parameter}`: {str(path)!r} is a copy of {collection.name}, which holds many slides: pass the paths of "
            "`stimage.io.list_slides`, or build a corpus with `python -m stimage corpus`."
        )
    raise ValueError(
        f"`{parameter}`: {str(path)!r} is no .h5ad file, no .zarr folder and of no other format that is read "
        f"({listing([format.name for format in FORMATS], 20)}){_what_to_do(path)}"
    )


def _what_to_do(path: Path) -> str:
    """What a folder or file holds instead of counts, and what to do about it."""
    own = "read it yourself and pass the AnnData."
    if path.is_file() and path.name.endswith((".zip", ".tar.gz", ".tgz", ".tar")):
        return ". It is packed: unpack it and pass the folder."
    if not path.is_dir():
        return f": {own}"
    names = sorted(child.name for child in path.iterdir())
    molecules = [name for name in names if "transcripts" in name]
    if molecules:
        return f". It has molecules ({listing(molecules, 3)}) and no counts of cells: count them first, and pass the AnnData."
    return f"; it has {listing(names, 8)}: {own}"
