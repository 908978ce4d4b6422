from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _validate
from stimage._settings import progress
from stimage.data import Corpus, SampleUnit, Slide, WindowSpec
from stimage.models._options import check_hides_sites
from stimage.models._setup import library_size_hash
from stimage.models.embedding._output import (
    ZarrRows,
    group_key,
    new_group,
    open_array,
    open_group,
    plain,
    scratch_folder,
)
from stimage.models.embedding._predicted import predicted_components
from stimage.models.embedding._readout import Readout
from stimage.models.embedding._site_vectors import EMBEDDING_MODES, EmbeddingMode, stream_vectors
from stimage.models.embedding._units import embed_spots
from stimage.modules import MaskedAutoencoder, SpotAutoencoder

if TYPE_CHECKING:
    import zarr

ROWS_AT_A_TIME = 4096
EmbedSlide = Callable[[Slide], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Embeds a slide: some sites and their vectors (sites x dimensions), then others, until all that it shows are done."""


@dataclass(frozen=True)
class EmbeddingOptions:
    """How a masked autoencoder embeds slides, see :meth:`stimage.models.STImage.get_latent_representation`.

    Parameters
    ----------
    spec, unit
        What the model was trained on.
    mode, tile_size, n_genes, batch_size, seed
        What was asked for; ``None`` stands for the default.

    Raises
    ------
    TypeError, ValueError
        If the model cannot embed in this way.
    """

    spec: WindowSpec
    unit: SampleUnit
    mode: EmbeddingMode | None = None
    tile_size: int | None = None
    n_genes: int | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        windows = self.unit.kind.has_windows
        if self.mode is None:
            object.__setattr__(self, "mode", "context" if windows else "visible")
        _validate.check_choice("mode", self.mode, EMBEDDING_MODES)
        if not windows and self.mode != "visible":
            raise ValueError(
                f"`mode`={self.mode!r} hides sites, which a model of `unit`={self.unit.name!r} never saw: leave `mode` out, or "
                "pass `mode='visible'`."
            )
        if not windows and self.tile_size is not None:
            raise ValueError(
                f"`tile_size`={self.tile_size!r} is for windows, which `unit`={self.unit.name!r} has none of: leave it out."
            )
        if self.mode != "visible":
            check_hides_sites(self.spec, f"`mode={self.mode!r}`", "pass `mode='visible'`")
        _validate.check_seed(self.seed)
        _validate.check_positive("batch_size", self.batch_size)
        if self.tile_size is not None:
            _validate.check_positive("tile_size", self.tile_size, smallest=2)
        elif windows:
            object.__setattr__(self, "tile_size", 2 * self.spec.window)
        if self.n_genes is not None:
            _validate.check_positive("n_genes", self.n_genes)

    def record(self) -> dict[str, Any]:
        """What is noted beside an embedding, h5ad-writable."""
        return {
            "mode": self.mode,
            "tile_size": self.tile_size or 0,
            "n_genes_drawn": self.n_genes or 0,
            "seed": self.seed,
        }


def slide_embedder(
    module: MaskedAutoencoder | SpotAutoencoder, readout: Readout | None, options: EmbeddingOptions
) -> EmbedSlide:
    """How a module embeds a slide; ``readout`` is for the mode ``"context"``."""
    batch_size, draws = options.batch_size, {"n_genes": options.n_genes, "seed": options.seed}

    def spots(slide: Slide) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        chunk = batch_size * options.spec.window**2
        yield np.arange(slide.n_sites), embed_spots(module, slide, options.unit, chunk=chunk, **draws)

    def windows(slide: Slide) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        tiles = {"tile_size": options.tile_size, "batch_size": batch_size}
        if options.mode == "visible":
            yield from stream_vectors(module, slide, "visible", **tiles, **draws)
            return
        vectors = readout(slide, predicted_components(module, slide, readout.axes, **tiles, **draws))
        shown = np.flatnonzero(slide.site_index[:, 0] >= 0)
        yield shown, vectors[shown]

    return windows if options.unit.kind.has_windows else spots


def embedding_in_memory(corpus: Corpus, n_dimensions: int, embed: EmbedSlide) -> np.ndarray:
    """Embedding of all observations of a corpus (observations x dimensions), in the order of their AnnData."""
    rows = np.empty((_n_observations(corpus), n_dimensions), dtype=np.float32)
    _fill(rows, corpus, embed)
    return rows


def embedding_on_disk(
    output: Path, corpus: Corpus, n_dimensions: int, embed: EmbedSlide, notes: dict[str, Any]
) -> zarr.Array:
    """The same as a zarr array with notes, which appears when it is complete."""
    shape = (_n_observations(corpus), n_dimensions)
    with scratch_folder(output) as scratch, ZarrRows(output, scratch, shape, notes) as rows:
        _fill(rows, corpus, embed)
    return open_array(output)


def embeddings_on_disk(
    output: Path, corpus: Corpus, n_dimensions: int, embed: EmbedSlide, notes: dict[str, Any]
) -> zarr.Group:
    """An array for each slide in a zarr group with notes; slides that are in the group are kept."""
    with scratch_folder(output) as scratch:
        if output.exists():
            _check_same_notes(output, notes)
        else:
            new_group(output, scratch, notes)
        missing = [slide for slide in corpus if not _is_finished(output, slide)]
        for slide in progress(missing, "Embedding slides"):
            attributes = {"slide": slide.name, "counts_sha256": library_size_hash(slide)}
            shape = (len(slide.observation_index), n_dimensions)
            with ZarrRows(output / group_key(slide.name), scratch, shape, attributes) as rows:
                _fill(rows, Corpus([slide], corpus.vocabulary), embed)
    return open_group(output)


def _n_observations(corpus: Corpus) -> int:
    return sum(len(slide.observation_index) for slide in corpus)


def _fill(rows: np.ndarray | ZarrRows, corpus: Corpus, embed: EmbedSlide) -> None:
    """Write the vectors of all observations of a corpus, in the order of their AnnData."""
    order = corpus.observation_order
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    ends = np.cumsum([len(slide.observation_index) for slide in corpus])
    for slide, of_slide in zip(progress(corpus, "Embedding slides"), np.split(places, ends[:-1]), strict=True):
        n_observations = len(of_slide)
        members = sparse.csr_matrix(
            (np.ones(n_observations, dtype=bool), (slide.site_of_observation, np.arange(n_observations))),
            shape=(slide.n_sites, n_observations),
        )
        done = np.zeros(slide.n_sites, dtype=bool)
        for sites, vectors in embed(slide):
            held = members[sites]
            rows[of_slide[held.indices]] = np.repeat(vectors, np.diff(held.indptr), axis=0)
            done[sites] = True
        # Nothing is known of sites that the raster does not show.
        rest = of_slide[~done[slide.site_of_observation]]
        for start in range(0, len(rest), ROWS_AT_A_TIME):
            some = rest[start : start + ROWS_AT_A_TIME]
            rows[some] = np.full((len(some), rows.shape[1]), np.nan, dtype=np.float32)


def _check_same_notes(output: Path, notes: dict[str, Any]) -> None:
    """Raise unless a group at a path comes from the same model and options."""
    try:
        found = dict(open_group(output).attrs)
    except (OSError, ValueError, KeyError):
        found = {}
    if "model_id" not in found:
        raise FileExistsError(
            f"{str(output)!r} (`output`) holds something other than embeddings of slides: choose another path."
        )
    notes = plain(notes)
    other = sorted(name for name in notes.keys() | found.keys() if notes.get(name) != found.get(name))
    if other:
        raise ValueError(
            f"The embeddings in {str(output)!r} (`output`) have another {_validate.listing(other, 5)} than those asked for: "
            "remove them, or choose another path."
        )


def _is_finished(output: Path, slide: Slide) -> bool:
    path = output / group_key(slide.name)
    if not path.exists():
        return False
    if open_array(path).attrs["counts_sha256"] != library_size_hash(slide):
        raise ValueError(
            f"{str(output)!r} (`output`) has an embedding of another slide that is called {slide.name!r} too: remove it, or "
            "choose another path."
        )
    return True
