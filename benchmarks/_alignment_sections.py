"""Sections with histology for the alignment benchmark."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import stimage as sti
from stimage.models import PatchSpec, STImage
from stimage.models.alignment._setup import ImageReader, paired_corpus_of, spot_vectors
from stimage.modules import ImageEncoder, ScGPTEncoder, load_image_encoder


@dataclass
class Sections:
    """Sections with grid and niches, and how their images are read."""

    adatas: dict[str, anndata.AnnData]
    reader: ImageReader
    config: dict = field(default_factory=dict)
    gene_encoder: STImage | ScGPTEncoder | None = None

    @property
    def reading(self) -> dict:
        """Where images are, for the functions of stimage."""
        return {"image_dir": self.reader.image_dir, "cache_dir": self.reader.cache}

    def features(self, name: str) -> np.ndarray:
        """Standardised features and colours of all patches of each spot."""
        (slide,) = self._paired(name)
        return np.concatenate([slide.spot_image, slide.niche_image], axis=1)

    def one_patch(self, name: str) -> np.ndarray:
        """Standardised features of the square of one pitch around each spot."""
        (slide,) = self._paired(name)
        width = self.reader.spot_encoder.config.width
        return slide.spot_image[:, width : 2 * width]

    def components(self, name: str) -> np.ndarray:
        """Thirty principal components of the 1,000 most variable genes."""
        adata = self.adatas[name]
        expression = log_expression(adata, adata.var_names).toarray()
        chosen = np.sort(np.argsort(-expression.var(axis=0))[:1000])
        return sti.benchmark.principal_components(expression[:, chosen], 30)

    def frozen_genes(self, name: str) -> np.ndarray:
        """What the frozen gene encoder says of the spots; without one, their principal components."""
        if self.gene_encoder is None:
            return self.components(name)
        return np.asarray(spot_vectors(self.adatas[name], self.gene_encoder))

    def stacked(self, names: list[str]) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Expression over the genes that all sections have, these genes, and the section of each spot."""
        genes = pd.Index(sorted(set.intersection(*(set(self.adatas[name].var_names) for name in names))))
        expression = sparse.vstack([log_expression(self.adatas[name], genes) for name in names]).tocsr()
        return expression, genes.to_numpy(), np.repeat(names, [self.adatas[name].n_obs for name in names])

    def _paired(self, name: str) -> list:
        adata = self.adatas[name]
        return paired_corpus_of(adata, adata.var_names[:100].tolist(), niche_key="niche", reader=self.reader).slides


def log_expression(adata: anndata.AnnData, genes: pd.Index) -> sparse.csr_matrix:
    """log1p of counts per 10,000; spots are normalised by all their genes."""
    counts = sparse.csr_matrix(adata.X, dtype=np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    expression = sparse.diags(1e4 / np.maximum(total, 1)) @ counts
    expression.data = np.log1p(expression.data)
    return expression.tocsr()[:, adata.var_names.get_indexer(genes)]


def read_sections(
    data: Path,
    names: tuple[str, ...],
    cache: Path,
    *,
    image_encoder: ImageEncoder | None = None,
    gene_encoder: STImage | ScGPTEncoder | None = None,
) -> Sections:
    """Sections of the shared data; the image files are linked into one folder, which the package is told of."""
    folder = Path(tempfile.mkdtemp(prefix="stimage-images-"))
    adatas = {}
    for name in names:
        adata = anndata.read_h5ad(data / name / f"{name}.h5ad")
        adata.obs["slide"] = name
        adata.obs["donor"] = donor_of(name)
        for library in adata.uns["spatial"].values():
            file = library["metadata"]["source_image_path"]
            (folder / file).symlink_to((data / name / file).resolve())
        adatas[name] = prepared(adata)
    encoder = load_image_encoder("efficientnet_lite0") if image_encoder is None else image_encoder
    encoder = encoder.eval().requires_grad_(False)
    return Sections(adatas, ImageReader(encoder, encoder, PatchSpec(), folder, cache), gene_encoder=gene_encoder)


def donor_of(name: str) -> str:
    """Patient of a section: sections A1 to A6 of the breast tumours are of patient A."""
    return name.removeprefix("img-")[:-1]


def prepared(adata: anndata.AnnData) -> anndata.AnnData:
    """With grid and niches."""
    sti.pp.compact_grid(adata, slide_key="slide")
    sti.pp.build_niches(adata)
    if "donor" in adata.obs:
        sti.models.STAlign.setup_anndata(adata, donor_key="donor")
    return adata


def simulated_sections() -> Sections:
    """Two small simulated sections whose stain follows the domains, for a run that takes seconds."""
    adatas = {}
    for seed in (0, 1):
        adata = sti.datasets.simulate_tissue(n_rows=10, n_cols=10, n_genes=200, seed=seed)
        adata.obs["slide"] = name = f"simulated {seed}"
        adata.obs["label"] = adata.obs["domain"].astype(str).to_numpy(dtype=object)
        coordinates = adata.obsm["spatial"] = adata.obsm["spatial"] - adata.obsm["spatial"].min(axis=0) + 200
        image = np.full((*(np.ceil(coordinates.max(axis=0)[::-1] / 4).astype(int) + 50), 3), 240, dtype=np.uint8)
        for (x, y), code in zip(coordinates / 4, adata.obs["label"].astype("category").cat.codes, strict=True):
            image[int(y) - 10 : int(y) + 10, int(x) - 10 : int(x) + 10] = (40 * code + 20, 200 - 30 * code, 120)
        scales = {"tissue_hires_scalef": 0.25, "spot_diameter_fullres": 55.0}
        adata.uns["spatial"] = {name: {"images": {"hires": image}, "scalefactors": scales}}
        adatas[name] = prepared(adata)
    encoder = load_image_encoder("efficientnet_lite0").eval().requires_grad_(False)
    reader = ImageReader(encoder, encoder, PatchSpec(), None, Path(tempfile.mkdtemp(prefix="stimage-features-")))
    return Sections(adatas, reader, {"dim": 32, "n_layers": 1})
