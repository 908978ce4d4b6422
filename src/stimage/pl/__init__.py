"""Figures: domains, niches, reconstructed regions, training windows, losses and benchmarks. Each function returns the matplotlib figure."""

from stimage.pl._alignment import alignment
from stimage.pl._benchmark import benchmark
from stimage.pl._domains import domains
from stimage.pl._niches import niches
from stimage.pl._region_error import region_error
from stimage.pl._training import training
from stimage.pl._windows import windows

__all__ = ["alignment", "benchmark", "domains", "niches", "region_error", "training", "windows"]
