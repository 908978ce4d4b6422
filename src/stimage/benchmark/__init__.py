"""Baselines, protocols and reports: arrays in, scores out; :func:`compare` does it all for AnnData."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.benchmark._batches import batch_mixing, domain_proportions
    from stimage.benchmark._bootstrap import Difference, paired_bootstrap
    from stimage.benchmark._compare import compare
    from stimage.benchmark._domain_protocols import mean_and_deviation, random_split_knn, transfer_knn, unsupervised_ari
    from stimage.benchmark._domains import evaluate_domains
    from stimage.benchmark._expression import evaluate_expression
    from stimage.benchmark._hest_bench import aligner_predictor, hest_bench, hest_bench_table
    from stimage.benchmark._report import Report
    from stimage.benchmark._retrieval import retrieval_recall
    from stimage.benchmark._scores import classification_scores, clustering_scores, reconstruction_scores
    from stimage.benchmark._splits import Split, block_split, leave_one_out, random_split
    from stimage.benchmark.baselines._embedding import embedding_baselines, neighbor_mean, principal_components
    from stimage.benchmark.baselines._expression import mean_predictor, neighbor_predictor, ridge_predictor
    from stimage.benchmark.heads._knn import knn_head
    from stimage.benchmark.heads._mlp import mlp_head
    from stimage.benchmark.metrics._ari import adjusted_rand_index
    from stimage.benchmark.metrics._chaos import chaos
    from stimage.benchmark.metrics._coherence import spatial_coherence
    from stimage.benchmark.metrics._completeness import completeness
    from stimage.benchmark.metrics._embedding_silhouette import embedding_silhouette
    from stimage.benchmark.metrics._homogeneity import homogeneity
    from stimage.benchmark.metrics._marker_geary import marker_geary
    from stimage.benchmark.metrics._marker_moran import marker_moran
    from stimage.benchmark.metrics._nmi import normalized_mutual_information
    from stimage.benchmark.metrics._pas import pas
    from stimage.benchmark.metrics._registry import METRICS, Metric, register_metric, score_domains
    from stimage.benchmark.metrics._spatial_silhouette import spatial_silhouette
    from stimage.benchmark.regions._baselines import gene_mean, inverse_distance, nearest_spots, smooth_fill
    from stimage.benchmark.regions._evaluate import evaluate_regions, model_predictor
    from stimage.benchmark.regions._kriging import kriging
    from stimage.benchmark.regions._noise_floor import counting_noise_floor
    from stimage.benchmark.regions._registry import REGION_BASELINES
    from stimage.benchmark.regions._submit import region_method, submit
    from stimage.benchmark.regions._task import HiddenRegion, RegionTask, TaskSlide, region_task

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_batches": ["batch_mixing", "domain_proportions"],
        "_bootstrap": ["Difference", "paired_bootstrap"],
        "_compare": ["compare"],
        "_domain_protocols": ["mean_and_deviation", "random_split_knn", "transfer_knn", "unsupervised_ari"],
        "_domains": ["evaluate_domains"],
        "baselines._embedding": ["embedding_baselines", "neighbor_mean", "principal_components"],
        "_expression": ["evaluate_expression"],
        "baselines._expression": ["mean_predictor", "neighbor_predictor", "ridge_predictor"],
        "heads._knn": ["knn_head"],
        "heads._mlp": ["mlp_head"],
        "regions._noise_floor": ["counting_noise_floor"],
        "regions._baselines": ["gene_mean", "inverse_distance", "nearest_spots", "smooth_fill"],
        "regions._kriging": ["kriging"],
        "regions._registry": ["REGION_BASELINES"],
        "regions._submit": ["region_method", "submit"],
        "regions._task": ["HiddenRegion", "RegionTask", "TaskSlide", "region_task"],
        "regions._evaluate": ["evaluate_regions", "model_predictor"],
        "_hest_bench": ["aligner_predictor", "hest_bench", "hest_bench_table"],
        "_report": ["Report"],
        "_retrieval": ["retrieval_recall"],
        "_scores": ["classification_scores", "clustering_scores", "reconstruction_scores"],
        "_splits": ["Split", "block_split", "leave_one_out", "random_split"],
        "metrics._ari": ["adjusted_rand_index"],
        "metrics._chaos": ["chaos"],
        "metrics._coherence": ["spatial_coherence"],
        "metrics._completeness": ["completeness"],
        "metrics._embedding_silhouette": ["embedding_silhouette"],
        "metrics._homogeneity": ["homogeneity"],
        "metrics._marker_geary": ["marker_geary"],
        "metrics._marker_moran": ["marker_moran"],
        "metrics._nmi": ["normalized_mutual_information"],
        "metrics._pas": ["pas"],
        "metrics._registry": ["METRICS", "Metric", "register_metric", "score_domains"],
        "metrics._spatial_silhouette": ["spatial_silhouette"],
    },
)
