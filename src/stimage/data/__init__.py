"""Slides as images: windows, gene selection, masks, splits and the data module. Knows no model."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.data.corpus._corpus import Corpus
    from stimage.data.corpus._donor_splits import split_by_donor
    from stimage.data.corpus._stored_pairs import StoredPairs
    from stimage.data.corpus._stored_rows import StoredRows
    from stimage.data.corpus._writer import CorpusWriter
    from stimage.data.images._slide_image import SlideImage, square_boxes
    from stimage.data.lattices import LATTICES, ArraySites, Lattice, PlatformSpots
    from stimage.data.sampling._alignment_data import AlignmentDataModule, AlignmentDataset
    from stimage.data.sampling._datamodule import WindowDataModule
    from stimage.data.sampling._epoch_sampler import EpochSampler, JointBatchSampler
    from stimage.data.sampling._gene_selection import select_window_genes
    from stimage.data.sampling._paired_slide import PairedSlide, standardised_features
    from stimage.data.sampling._site_limits import site_limits
    from stimage.data.sampling._window_dataset import WindowDataset, collate_windows
    from stimage.data.sampling._windows import Window, WindowSpec, crop, cut_window, window_origins, window_positions
    from stimage.data.sampling.device._datamodule import DeviceWindowDataModule
    from stimage.data.sampling.device._windows import DeviceWindows
    from stimage.data.sampling.masking import MASKINGS, MaskingRule, draw_hidden_sites
    from stimage.data.sampling.units import UNITS, SampleKind, SampleUnit, SpotDataset, SpotSample, SpotSampler
    from stimage.data.slides._macro_domains import macro_domains
    from stimage.data.slides._neighbors import NearestSites
    from stimage.data.slides._row_matrix import RowMatrix
    from stimage.data.slides._slide import Slide, site_positions
    from stimage.data.slides._smoothing import gaussian_mean
    from stimage.data.slides._spectrum import principal_genes
    from stimage.data.slides._splits import split_by_block, split_by_slide
    from stimage.data.slides._stored_matrix import StoredMatrix
    from stimage.data.slides._vocabulary import GeneMatch, Vocabulary

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "corpus._corpus": ["Corpus"],
        "corpus._donor_splits": ["split_by_donor"],
        "corpus._stored_pairs": ["StoredPairs"],
        "corpus._stored_rows": ["StoredRows"],
        "corpus._writer": ["CorpusWriter"],
        "images._slide_image": ["SlideImage", "square_boxes"],
        "lattices": ["LATTICES", "ArraySites", "Lattice", "PlatformSpots"],
        "sampling._alignment_data": ["AlignmentDataModule", "AlignmentDataset"],
        "sampling._datamodule": ["WindowDataModule"],
        "sampling._window_dataset": ["WindowDataset", "collate_windows"],
        "sampling._epoch_sampler": ["EpochSampler", "JointBatchSampler"],
        "sampling._gene_selection": ["select_window_genes"],
        "sampling._paired_slide": ["PairedSlide", "standardised_features"],
        "sampling._site_limits": ["site_limits"],
        "sampling.units": ["UNITS", "SampleKind", "SampleUnit", "SpotDataset", "SpotSample", "SpotSampler"],
        "sampling._windows": ["Window", "WindowSpec", "crop", "cut_window", "window_origins", "window_positions"],
        "sampling.masking": ["MASKINGS", "MaskingRule", "draw_hidden_sites"],
        "sampling.device._datamodule": ["DeviceWindowDataModule"],
        "sampling.device._windows": ["DeviceWindows"],
        "slides._macro_domains": ["macro_domains"],
        "slides._neighbors": ["NearestSites"],
        "slides._slide": ["Slide", "site_positions"],
        "slides._smoothing": ["gaussian_mean"],
        "slides._spectrum": ["principal_genes"],
        "slides._splits": ["split_by_block", "split_by_slide"],
        "slides._row_matrix": ["RowMatrix"],
        "slides._stored_matrix": ["StoredMatrix"],
        "slides._vocabulary": ["GeneMatch", "Vocabulary"],
    },
)
