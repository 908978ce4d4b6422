"""Baselines, protocols and reports: arrays in, scores out; :func:`compare` does it all for AnnData."""

from stimage.benchmark._compare import compare
from stimage.benchmark._domain_protocols import mean_and_deviation, random_split_knn, transfer_knn, unsupervised_ari
from stimage.benchmark._domains import evaluate_domains
from stimage.benchmark._embedding_baselines import embedding_baselines, neighbor_mean, principal_components
from stimage.benchmark._expression import evaluate_expression
from stimage.benchmark._expression_baselines import mean_predictor, neighbor_predictor, ridge_predictor
from stimage.benchmark._heads import knn_head, mlp_head
from stimage.benchmark._noise_floor import counting_noise_floor
from stimage.benchmark._region_baselines import gene_mean, inverse_distance, nearest_spots, smooth_fill
from stimage.benchmark._regions import evaluate_regions, model_predictor
from stimage.benchmark._report import Report
from stimage.benchmark._retrieval import retrieval_recall
from stimage.benchmark._scores import classification_scores, clustering_scores, reconstruction_scores
from stimage.benchmark._splits import Split, block_split, leave_one_out, random_split

__all__ = [
    "Report",
    "Split",
    "block_split",
    "classification_scores",
    "clustering_scores",
    "compare",
    "counting_noise_floor",
    "embedding_baselines",
    "evaluate_domains",
    "evaluate_expression",
    "evaluate_regions",
    "gene_mean",
    "inverse_distance",
    "knn_head",
    "leave_one_out",
    "mean_and_deviation",
    "mean_predictor",
    "mlp_head",
    "model_predictor",
    "nearest_spots",
    "neighbor_mean",
    "neighbor_predictor",
    "principal_components",
    "random_split",
    "random_split_knn",
    "reconstruction_scores",
    "retrieval_recall",
    "ridge_predictor",
    "smooth_fill",
    "transfer_knn",
    "unsupervised_ari",
]
