"""Slides as images: windows, gene selection, masks, splits and the data module. Knows no model."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.data._alignment_data import AlignmentDataModule, AlignmentDataset
    from stimage.data._corpus import Corpus
    from stimage.data._corpus_writer import CorpusWriter
    from stimage.data._datamodule import SpotDataset, WindowDataModule, WindowDataset, collate_windows
    from stimage.data._device_datamodule import DeviceWindowDataModule
    from stimage.data._device_windows import DeviceWindows
    from stimage.data._donor_splits import split_by_donor
    from stimage.data._epoch_sampler import EpochSampler, JointBatchSampler
    from stimage.data._gene_selection import select_window_genes
    from stimage.data._macro_domains import macro_domains
    from stimage.data._masking import draw_hidden_sites
    from stimage.data._neighbors import NearestSites
    from stimage.data._paired_slide import PairedSlide, standardised_features
    from stimage.data._site_limits import site_limits
    from stimage.data._slide import Slide, site_positions
    from stimage.data._slide_image import SlideImage, square_boxes
    from stimage.data._smoothing import gaussian_mean
    from stimage.data._spectrum import principal_genes
    from stimage.data._splits import split_by_block, split_by_slide
    from stimage.data._stored_matrix import StoredMatrix
    from stimage.data._units import SampleUnit, SpotSample, SpotSampler
    from stimage.data._vocabulary import GeneMatch, Vocabulary
    from stimage.data._windows import Window, WindowSpec, crop, cut_window, window_origins, window_positions

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_alignment_data": ["AlignmentDataModule", "AlignmentDataset"],
        "_corpus": ["Corpus"],
        "_corpus_writer": ["CorpusWriter"],
        "_datamodule": ["SpotDataset", "WindowDataModule", "WindowDataset", "collate_windows"],
        "_device_datamodule": ["DeviceWindowDataModule"],
        "_device_windows": ["DeviceWindows"],
        "_donor_splits": ["split_by_donor"],
        "_epoch_sampler": ["EpochSampler", "JointBatchSampler"],
        "_gene_selection": ["select_window_genes"],
        "_macro_domains": ["macro_domains"],
        "_masking": ["draw_hidden_sites"],
        "_neighbors": ["NearestSites"],
        "_paired_slide": ["PairedSlide", "standardised_features"],
        "_site_limits": ["site_limits"],
        "_slide": ["Slide", "site_positions"],
        "_slide_image": ["SlideImage", "square_boxes"],
        "_smoothing": ["gaussian_mean"],
        "_spectrum": ["principal_genes"],
        "_splits": ["split_by_block", "split_by_slide"],
        "_stored_matrix": ["StoredMatrix"],
        "_units": ["SampleUnit", "SpotSample", "SpotSampler"],
        "_vocabulary": ["GeneMatch", "Vocabulary"],
        "_windows": ["Window", "WindowSpec", "crop", "cut_window", "window_origins", "window_positions"],
    },
)
