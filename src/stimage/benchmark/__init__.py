"""Baselines and protocols: arrays in, scores out."""

from stimage.benchmark._region_baselines import gene_mean, inverse_distance, nearest_spots

__all__ = ["gene_mean", "inverse_distance", "nearest_spots"]
