"""Public slides, downloaded on first use and kept."""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stimage._paths import path_of
from stimage._validate import check_choice, check_path

if TYPE_CHECKING:
    from anndata import AnnData

_SQUIDPY = "https://exampledata.scverse.org/squidpy/10x_genomics"
_TENX = "https://cf.10xgenomics.com/samples"


@dataclass(frozen=True)
class _Visium:
    """A slide that squidpy downloads, with checksums that come with squidpy."""

    sample: str
    histology: bool = False


@dataclass(frozen=True)
class _Archive:
    """A zip file of 10x, and the folder in it that is read."""

    url: str
    folder: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_SLIDES: dict[str, _Visium | _Archive] = {
    "visium_breast_cancer": _Visium("V1_Breast_Cancer_Block_A_Section_1"),
    "visium_lymph_node": _Visium("V1_Human_Lymph_Node"),
    "visium_mouse_brain": _Visium("V1_Adult_Mouse_Brain"),
    "visium_heart_histology": _Visium("V1_Human_Heart", histology=True),
    "visium_hd_tiny": _Archive(
        f"{_TENX}/spatial-exp/4.0.1/Visium_HD_Tiny_3prime_Dataset/Visium_HD_Tiny_3prime_Dataset_outs.zip",
        "square_008um",
    ),
    "xenium_ovary_tiny": _Archive(
        f"{_TENX}/xenium/4.0.0/Xenium_V1_Human_Ovary_tiny/Xenium_V1_Human_Ovary_tiny_outs.zip", ""
    ),
}


def public_slide(name: str, *, path: str | os.PathLike[str] | None = None) -> AnnData:
    """Download a public slide of 10x Genomics, and read it as :func:`stimage.io.read` does.

    Files are downloaded once. Those of Visium come through ``squidpy.datasets.visium``, with the checksums that squidpy has.
    For the others no checksum is published in a form that we could verify: the one of the first download is written beside
    the file, and compared whenever the file is used again.

    Parameters
    ----------
    name
        ``"visium_breast_cancer"``, ``"visium_lymph_node"`` or ``"visium_mouse_brain"``: Visium with small pictures;
        ``"visium_heart_histology"``: Visium with its whole microscope image, for patches; ``"visium_hd_tiny"``: a small
        section of Visium HD, in bins of 8 micrometres; ``"xenium_ovary_tiny"``: a small section of Xenium.
    path
        Folder in which files are kept; ``scanpy.settings.datasetdir`` by default.

    Returns
    -------
    AnnData
        The slide, without a grid.

    Raises
    ------
    ConnectionError
        If it cannot be downloaded; the message says which files to put where instead.
    ValueError
        If the name is not known, or a file is not the one that was downloaded first.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.public_slide("visium_lymph_node")  # doctest: +SKIP
    >>> sti.pp.compact_grid(adata)  # doctest: +SKIP
    """
    check_choice("name", name, _SLIDES)
    if path is not None:
        check_path("path", path)
    slide = _SLIDES[name]
    folder = _default_folder() if path is None else path_of(path)
    return _visium(slide, folder / "visium") if isinstance(slide, _Visium) else _from_archive(slide, folder / name)


def _default_folder() -> Path:
    import scanpy as sc

    return Path(sc.settings.datasetdir)


def _visium(slide: _Visium, folder: Path) -> AnnData:
    from squidpy.datasets import visium

    from stimage.io import read

    try:
        adata = visium(slide.sample, include_hires_tiff=slide.histology, base_dir=folder)
    except (ExceptionGroup, OSError) as error:
        names = ["filtered_feature_bc_matrix.h5", "spatial.tar.gz", *(["image.tif"] if slide.histology else [])]
        files = {f"{_SQUIDPY}/{slide.sample}/{slide.sample}_{name}": folder / slide.sample / name for name in names}
        raise _offline(files) from error
    # squidpy goes on without the image when only this cannot be downloaded.
    image = folder / slide.sample / "image.tif"
    if slide.histology and not image.is_file():
        raise _offline({f"{_SQUIDPY}/{slide.sample}/{slide.sample}_image.tif": image})
    return read(adata)


def _from_archive(slide: _Archive, folder: Path) -> AnnData:
    from stimage.io import read

    archive = folder / slide.file
    if not archive.is_file():
        _download(slide, folder)
    _check_hash(archive)
    contents = folder / archive.stem
    if not contents.is_dir():
        scratch = folder / f".{archive.stem}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)
        scratch.rename(contents)
    if slide.folder:
        found = sorted(place for place in contents.rglob(slide.folder) if place.is_dir())
    else:
        found = sorted({place.parent for place in contents.rglob("cell_feature_matrix*")})
    if not found:
        raise ValueError(f"{str(archive)!r} has no {slide.folder or 'cell_feature_matrix'!r}: delete it and try again.")
    return read(found[0])


def _download(slide: _Archive, folder: Path) -> None:
    import pooch
    import requests

    try:
        pooch.retrieve(slide.url, known_hash=None, fname=slide.file, path=folder)
    except (OSError, requests.RequestException) as error:
        raise _offline({slide.url: folder / slide.file}) from error


def _check_hash(archive: Path) -> None:
    """Note the SHA-256 of a file that is new, and compare that of one that is not."""
    import pooch

    note = archive.with_name(f"{archive.name}.sha256")
    found = pooch.file_hash(str(archive), alg="sha256")
    if not note.is_file():
        note.write_text(f"{found}\n")
    elif note.read_text().strip() != found:
        raise ValueError(
            f"{str(archive)!r} is not the file that was downloaded first (SHA-256 {found[:12]}… instead of "
            f"{note.read_text()[:12]}…): delete it and {str(note)!r}, and download it again."
        )


def _offline(files: dict[str, Path]) -> ConnectionError:
    what = "; ".join(f"{url} to {str(place)!r}" for url, place in files.items())
    return ConnectionError(
        f"The slide cannot be downloaded. On a machine with internet, download {what}; then call again."
    )
