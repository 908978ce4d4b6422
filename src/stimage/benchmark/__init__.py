"""Baselines, protocols and reports: arrays in, scores out; :func:`compare` does it all for AnnData."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.benchmark._compare import compare
    from stimage.benchmark._domain_protocols import mean_and_deviation, random_split_knn, transfer_knn, unsupervised_ari
    from stimage.benchmark._domains import evaluate_domains
    from stimage.benchmark._embedding_baselines import embedding_baselines, neighbor_mean, principal_components
    from stimage.benchmark._expression import evaluate_expression
    from stimage.benchmark._expression_baselines import mean_predictor, neighbor_predictor, ridge_predictor
    from stimage.benchmark._heads import knn_head, mlp_head
    from stimage.benchmark._hest_bench import aligner_predictor, hest_bench, hest_bench_table
    from stimage.benchmark._noise_floor import counting_noise_floor
    from stimage.benchmark._region_baselines import gene_mean, inverse_distance, nearest_spots, smooth_fill
    from stimage.benchmark._regions import evaluate_regions, model_predictor
    from stimage.benchmark._report import Report
    from stimage.benchmark._retrieval import retrieval_recall
    from stimage.benchmark._scores import classification_scores, clustering_scores, reconstruction_scores
    from stimage.benchmark._splits import Split, block_split, leave_one_out, random_split

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_compare": ["compare"],
        "_domain_protocols": ["mean_and_deviation", "random_split_knn", "transfer_knn", "unsupervised_ari"],
        "_domains": ["evaluate_domains"],
        "_embedding_baselines": ["embedding_baselines", "neighbor_mean", "principal_components"],
        "_expression": ["evaluate_expression"],
        "_expression_baselines": ["mean_predictor", "neighbor_predictor", "ridge_predictor"],
        "_hest_bench": ["aligner_predictor", "hest_bench", "hest_bench_table"],
        "_heads": ["knn_head", "mlp_head"],
        "_noise_floor": ["counting_noise_floor"],
        "_region_baselines": ["gene_mean", "inverse_distance", "nearest_spots", "smooth_fill"],
        "_regions": ["evaluate_regions", "model_predictor"],
        "_report": ["Report"],
        "_retrieval": ["retrieval_recall"],
        "_scores": ["classification_scores", "clustering_scores", "reconstruction_scores"],
        "_splits": ["Split", "block_split", "leave_one_out", "random_split"],
    },
)
