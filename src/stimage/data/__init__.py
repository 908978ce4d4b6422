"""Slides as images: windows, gene selection, masks, splits and the data module. Knows no model."""

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
from stimage.data._spectrum import principal_genes
from stimage.data._splits import split_by_block, split_by_slide
from stimage.data._stored_matrix import StoredMatrix
from stimage.data._units import SampleUnit, SpotSample, SpotSampler
from stimage.data._vocabulary import GeneMatch, Vocabulary
from stimage.data._windows import Window, WindowSpec, crop, cut_window, window_origins, window_positions

__all__ = [
    "AlignmentDataModule",
    "AlignmentDataset",
    "Corpus",
    "CorpusWriter",
    "DeviceWindowDataModule",
    "DeviceWindows",
    "EpochSampler",
    "GeneMatch",
    "JointBatchSampler",
    "NearestSites",
    "PairedSlide",
    "SampleUnit",
    "Slide",
    "SlideImage",
    "SpotDataset",
    "SpotSample",
    "SpotSampler",
    "StoredMatrix",
    "Vocabulary",
    "Window",
    "WindowDataModule",
    "WindowDataset",
    "WindowSpec",
    "collate_windows",
    "crop",
    "cut_window",
    "draw_hidden_sites",
    "macro_domains",
    "principal_genes",
    "select_window_genes",
    "site_limits",
    "site_positions",
    "split_by_block",
    "split_by_donor",
    "split_by_slide",
    "square_boxes",
    "standardised_features",
    "window_origins",
    "window_positions",
]
