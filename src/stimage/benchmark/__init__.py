"""Baselines and protocols: arrays in, scores out."""

from stimage.benchmark._domain_protocols import mean_and_deviation, random_split_knn, transfer_knn, unsupervised_ari
from stimage.benchmark._embedding_baselines import neighbor_mean, principal_components
from stimage.benchmark._region_baselines import gene_mean, inverse_distance, nearest_spots

__all__ = [
    "gene_mean",
    "inverse_distance",
    "mean_and_deviation",
    "nearest_spots",
    "neighbor_mean",
    "principal_components",
    "random_split_knn",
    "transfer_knn",
    "unsupervised_ari",
]
