"""Lightning modules and checkpoints."""

from stimage.train._alignment_plan import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._checkpoint import load_checkpoint, save_checkpoint
from stimage.train._plan import MaskedTrainingPlan, OptimizerConfig

__all__ = [
    "AlignmentOptimizerConfig",
    "AlignmentPlan",
    "MaskedTrainingPlan",
    "OptimizerConfig",
    "load_checkpoint",
    "save_checkpoint",
]
