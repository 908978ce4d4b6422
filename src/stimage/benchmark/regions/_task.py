"""The public task of hidden regions: which slides, and what is hidden on them."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stimage import _keys, _validate

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class HiddenRegion:
    """A square of sites that is hidden.

    Parameters
    ----------
    row, col
        Its first row and column on the grid of :func:`stimage.pp.compact_grid`.
    size
        Sites along each side.
    n_hidden
        Observations in it.
    """

    row: int
    col: int
    size: int
    n_hidden: int


@dataclass(frozen=True)
class TaskSlide:
    """A slide of the task.

    Parameters
    ----------
    name
        Its name.
    source
        Where its counts are from.
    n_spots, n_genes
        Its shape.
    sha256
        :func:`counts_fingerprint` of its counts.
    regions
        What is hidden, one region at a time.
    """

    name: str
    source: str
    n_spots: int
    n_genes: int
    sha256: str
    regions: tuple[HiddenRegion, ...]


@dataclass(frozen=True)
class RegionTask:
    """Slides and the regions that are hidden on them.

    Parameters
    ----------
    version
        Scores of different versions cannot be compared.
    n_genes
        Genes predicted: those with the largest variance among the spots that are visible.
    interval
        Share of values that intervals should hold.
    seed
        Seed that the places were drawn with.
    slides
        The slides.

    Examples
    --------
    >>> from stimage.benchmark import region_task
    >>> task = region_task()
    >>> task.n_genes, task.interval, "HCC1_visium_liver" in task.by_name
    (512, 0.9, True)
    """

    version: int
    n_genes: int
    interval: float
    seed: int
    slides: tuple[TaskSlide, ...]

    @cached_property
    def by_name(self) -> dict[str, TaskSlide]:
        """The slides by their names."""
        return {slide.name: slide for slide in self.slides}


def region_task() -> RegionTask:
    """The task that :func:`submit` scores: read from a file that comes with the package.

    Returns
    -------
    RegionTask
        Slides, places and settings.

    Examples
    --------
    >>> from stimage.benchmark import region_task
    >>> region_task().slides[0].regions[0].size
    4
    """
    return task_from_json(files("stimage.benchmark.regions").joinpath("task.json").read_text(encoding="utf-8"))


def task_from_json(text: str) -> RegionTask:
    """A task as :func:`task_to_json` writes it."""
    document = json.loads(text)
    slides = []
    for slide in document.pop("slides"):
        regions = tuple(HiddenRegion(*numbers) for numbers in slide.pop("regions"))
        slides.append(TaskSlide(**slide, regions=regions))
    return RegionTask(**document, slides=tuple(slides))


def task_to_json(task: RegionTask) -> str:
    """A task as text: a slide to a line, regions as [row, col, size, n_hidden]."""
    head = {"version": task.version, "n_genes": task.n_genes, "interval": task.interval, "seed": task.seed}
    lines = []
    for slide in task.slides:
        facts = {key: getattr(slide, key) for key in ("name", "source", "n_spots", "n_genes", "sha256")}
        regions = [[part.row, part.col, part.size, part.n_hidden] for part in slide.regions]
        lines.append(json.dumps({**facts, "regions": regions}))
    return json.dumps(head)[:-1] + ', "slides": [\n' + ",\n".join(lines) + "\n]}\n"


def counts_fingerprint(counts: np.ndarray | sparse.spmatrix, names: np.ndarray, genes: np.ndarray) -> str:
    """Hash of the names and totals of observations and genes, in whatever order they are."""
    counts = sparse.csr_matrix(counts)
    digest = hashlib.sha256()
    for labels, axis in ((names, 1), (genes, 0)):
        totals = np.rint(np.asarray(counts.sum(axis=axis, dtype=np.float64)).ravel()).astype(np.int64)
        digest.update("\n".join(sorted(f"{label}\t{n}" for label, n in zip(labels, totals, strict=True))).encode())
    return digest.hexdigest()


def draw_regions(adata: AnnData, sizes: tuple[int, ...], n_places: int, seed: int) -> tuple[HiddenRegion, ...]:
    """Random squares of sites of which at least nine in ten hold an observation; smaller sizes first."""
    from stimage.benchmark.regions._evaluate import full_corners

    sites, _ = on_grid(adata)
    rng = np.random.default_rng(seed)
    regions = []
    for size in sizes:
        corners = full_corners(sites, size)
        if not len(corners):
            raise ValueError(f"No square of {size} x {size} sites is full of tissue: pass smaller sizes.")
        for row, col in corners[rng.choice(len(corners), min(n_places, len(corners)), replace=False)]:
            region = HiddenRegion(int(row), int(col), size, 0)
            regions.append(HiddenRegion(int(row), int(col), size, int(hidden_spots(sites, region).sum())))
    return tuple(regions)


def describe(adata: AnnData, name: str, regions: tuple[HiddenRegion, ...]) -> TaskSlide:
    """What the task notes of a slide."""
    source = adata.uns.get("source", {})
    source = source.get("repo", "") if isinstance(source, dict) else str(source)
    sha256 = counts_fingerprint(adata.X, adata.obs_names, adata.var_names)
    return TaskSlide(name, str(source), adata.n_obs, adata.n_vars, sha256, regions)


def check_slide(adata: AnnData, slide: TaskSlide) -> None:
    """Raise ``ValueError`` where an AnnData is not the slide of the task."""
    _validate.check_anndata(adata, f"slides[{slide.name!r}]")
    if adata.shape != (slide.n_spots, slide.n_genes):
        raise ValueError(
            f"`slides[{slide.name!r}]` has {adata.n_obs} observations and {adata.n_vars} genes, the task's slide "
            f"{slide.n_spots} and {slide.n_genes}: pass it whole, as it was published."
        )
    if counts_fingerprint(adata.X, adata.obs_names, adata.var_names) != slide.sha256:
        raise ValueError(
            f"`slides[{slide.name!r}]` has other names or counts than the task's slide: pass raw counts in X, as they "
            "were published."
        )


def on_grid(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each observation on its own compact grid, and its position in units of the distance of neighbours.

    The AnnData stays as it is, whatever grid it has.
    """
    from anndata import AnnData

    from stimage import pp
    from stimage.data import site_positions

    array = [column for column in ("array_row", "array_col") if column in adata.obs]
    bare = AnnData(adata.X, obs=adata.obs[array].copy(), obsm={"spatial": np.asarray(adata.obsm["spatial"])})
    bare.var_names = adata.var_names
    with warnings.catch_warnings():
        # What is to be said of these slides was said when the task was made.
        warnings.simplefilter("ignore", UserWarning)
        pp.compact_grid(bare)
    sites = bare.obs[[_keys.grid_row(), _keys.grid_col()]].to_numpy().astype(np.int64)
    grid = bare.uns[_keys.GRID]["slides"].iloc[0]
    positions = site_positions(*sites.T, layout=str(grid["layout"]), parity=int(grid["parity"]))
    return sites, positions.astype(np.float64)


def hidden_spots(sites: np.ndarray, region: HiddenRegion) -> np.ndarray:
    """Which observations (mask) lie in a region."""
    start = np.array([region.row, region.col])
    return ((sites >= start) & (sites < start + region.size)).all(axis=1)
