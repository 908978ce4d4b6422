from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _validate
from stimage._paths import path_of
from stimage._settings import progress
from stimage.data import Corpus, Slide
from stimage.models._options import embedding_mode
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
from stimage.models.embedding._site_vectors import EmbeddingMode, stream_vectors
from stimage.models.embedding._units import embed_spots

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

ROWS_AT_A_TIME = 4096
EmbedSlide = Callable[[Slide], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Embeds a slide: some sites and their vectors (sites x dimensions), then others, until all that it shows are done."""


class EmbedMixin:
    """Embedding with a model that owns a module, a readout and a sample unit."""

    def get_latent_representation(
        self,
        data: AnnData | Sequence[AnnData] | Corpus | None = None,
        *,
        mode: EmbeddingMode | None = None,
        tile_size: int | None = None,
        n_genes: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        output: str | Path | None = None,
    ) -> np.ndarray | zarr.Array:
        """One vector per observation.

        Parameters
        ----------
        data
            Slides to embed, over any genes that overlap the vocabulary; those of the model by default.
        mode
            ``"visible"``: the encoder's output at a visible site; ``"context"``: its output at a site while that is masked
            together with a random half of the slide, scaled, beside the site's niche codes, see the user guide. By default
            ``"context"`` with windows; the other units have ``"visible"`` alone.
        tile_size
            Rows and columns of the windows, which overlap by half and are averaged. By default twice those of
            training, so that most sites have their surroundings on all sides.
        n_genes
            Genes drawn in each of three repeats, which are averaged; by default all genes are used.
        batch_size
            Windows in a forward pass at most. The result does not depend on it.
        seed
            Seed of the choice of masked sites and of gene draws.
        output
            Path of a zarr array to write the embedding to instead, a few rows of windows at a time: for slides whose
            embedding does not fit into memory. It appears there when it is complete.

        Returns
        -------
        numpy.ndarray or zarr.Array
            Embedding (observations x 128 with the default sizes, and up to 30 codes with ``"context"``), float32, in the order
            of the AnnData. With ``output`` the array on disk, open for reading; its attributes say where it comes from,
            as ``uns["stimage"]`` does.

        Raises
        ------
        FileExistsError
            If there is something at ``output`` already.
        RuntimeError
            If another process writes to ``output``.
        """
        options = {"mode": mode, "tile_size": tile_size, "n_genes": n_genes, "seed": seed}
        self.check_embedding_options(**options, batch_size=batch_size)
        if output is not None:
            check_absent(output)
        corpus = self._corpus_for(data)
        embed = self._embed_slide(options, batch_size)
        shape = (sum(len(slide.observation_index) for slide in corpus), self._embedding_length(mode))
        if output is None:
            rows = np.empty(shape, dtype=np.float32)
            _fill(rows, corpus, embed)
            return rows
        adata = None if data is None or isinstance(data, Sequence) else data
        notes = self.embedding_record(adata, **options)
        with scratch_folder(path_of(output)) as scratch, ZarrRows(path_of(output), scratch, shape, notes) as rows:
            _fill(rows, corpus, embed)
        return open_array(path_of(output))

    def embed_corpus(
        self,
        data: AnnData | Sequence[AnnData] | Corpus | None,
        output: str | Path,
        *,
        mode: EmbeddingMode | None = None,
        tile_size: int | None = None,
        n_genes: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> zarr.Group:
        """Embed many slides, one after the other, to a zarr group with an array for each.

        An array appears in the group when it is complete. Run again after an interruption, the same call goes on with the
        slides that are missing; so it does with slides that were added to the corpus.

        Parameters
        ----------
        data
            Slides to embed, in memory or on disk; those of the model when ``None``.
        output
            Path of the group; made when absent.
        mode, tile_size, n_genes, batch_size, seed
            As in :meth:`get_latent_representation`.

        Returns
        -------
        zarr.Group
            The group, open for reading. Its attributes say which model and options the embeddings come from, those of an
            array (observations of the slide in the order of its AnnData x dimensions, float32) which ``slide`` it is of.
            Arrays are called like slides; characters that paths give a meaning to are written as in URLs.

        Raises
        ------
        FileExistsError
            If there is something else at ``output``.
        RuntimeError
            If another process writes to ``output``.
        ValueError
            If the group there was made by another model, with other options or from other slides of the same names.

        Examples
        --------
        >>> import tempfile
        >>> import stimage as sti
        >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
        >>> sti.pp.compact_grid(adata)
        >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     group = model.embed_corpus(adata, f"{folder}/embeddings.zarr", mode="visible")
        ...     print(group["slide"].shape == (adata.n_obs, 128))
        True
        """
        options = {"mode": mode, "tile_size": tile_size, "n_genes": n_genes, "seed": seed}
        self.check_embedding_options(**options, batch_size=batch_size)
        _validate.check_path("output", output)
        output, corpus = path_of(output), self._corpus_for(data)
        embed, length = self._embed_slide(options, batch_size), self._embedding_length(mode)
        notes = self.embedding_record(**options)
        with scratch_folder(output) as scratch:
            if output.exists():
                _check_same_notes(output, notes)
            else:
                new_group(output, scratch, notes)
            missing = [slide for slide in corpus if not _is_finished(output, slide)]
            for slide in progress(missing, "Embedding slides"):
                attributes = {"slide": slide.name, "counts_sha256": library_size_hash(slide)}
                shape = (len(slide.observation_index), length)
                with ZarrRows(output / group_key(slide.name), scratch, shape, attributes) as rows:
                    _fill(rows, Corpus([slide], corpus.vocabulary), embed)
        return open_group(output)

    def embedding_record(
        self,
        adata: AnnData | None = None,
        *,
        mode: EmbeddingMode | None,
        tile_size: int | None,
        n_genes: int | None,
        seed: int,
    ) -> dict[str, Any]:
        """What to note beside an embedding.

        Parameters
        ----------
        adata
            What was embedded, if that is one AnnData.
        mode, tile_size, n_genes, seed
            As in :meth:`get_latent_representation`.

        Returns
        -------
        dict
            The entries of ``uns["stimage"]["X_stimage"]``, h5ad-writable.
        """
        if tile_size is None:
            tile_size = 2 * self.spec.window if self.unit.name == "patch" else 0
        return {
            **self.provenance(adata),
            "mode": embedding_mode(mode, self.unit),
            "tile_size": tile_size,
            "n_genes_drawn": n_genes or 0,
            "seed": seed,
            "manifest": json.dumps(self.manifest_record(), sort_keys=True),
        }

    def check_embedding_options(self, *, mode: Any, tile_size: Any, n_genes: Any, batch_size: Any, seed: Any) -> None:
        """Raise ``ValueError`` or ``TypeError`` for options of :meth:`get_latent_representation` that it would refuse.

        Parameters
        ----------
        mode, tile_size, n_genes, batch_size, seed
            As in :meth:`get_latent_representation`.
        """
        mode = embedding_mode(mode, self.unit, tile_size=tile_size)
        if mode != "visible":
            self._check_hides_sites(f"`mode={mode!r}`", "pass `mode='visible'`")
        _validate.check_seed(seed)
        _validate.check_positive("batch_size", batch_size)
        if tile_size is not None:
            _validate.check_positive("tile_size", tile_size, smallest=2)
        if n_genes is not None:
            _validate.check_positive("n_genes", n_genes)

    def _embedding_length(self, mode: EmbeddingMode | None) -> int:
        """Length of a site's vector. Fits the readout if it is needed and there is none yet."""
        if embedding_mode(mode, self.unit) == "visible":
            return self.autoencoder.dim
        if self.readout is None:
            self.fit_readout()
        return self.autoencoder.dim + self.readout.codes.n_codes

    def _embed_slide(self, options: dict[str, Any], batch_size: int) -> EmbedSlide:
        """How to embed a slide: some sites and their vectors at a time."""
        mode, tile_size = embedding_mode(options["mode"], self.unit), options["tile_size"] or 2 * self.spec.window
        draws = {name: options[name] for name in ("n_genes", "seed")}

        def spots(slide: Slide) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            chunk = batch_size * self.spec.window**2
            yield np.arange(slide.n_sites), embed_spots(self.module, slide, self.unit, chunk=chunk, **draws)

        def windows(slide: Slide) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            parts = stream_vectors(self.module, slide, mode, tile_size=tile_size, batch_size=batch_size, **draws)
            for sites, vectors in parts:
                yield sites, self.readout(vectors) if mode == "context" else vectors

        return windows if self.unit.name == "patch" else spots


def check_absent(output: str | Path) -> None:
    """Raise unless an output can be written to a path at which there is nothing yet."""
    _validate.check_path("output", output)
    if path_of(output).exists():
        raise FileExistsError(f"There is something at {str(output)!r} (`output`): remove it, or choose another path.")


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
