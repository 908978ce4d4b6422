"""Lightning modules and checkpoints."""

from stimage.train._checkpoint import load_checkpoint, save_checkpoint
from stimage.train._plan import MaskedTrainingPlan, OptimizerConfig

__all__ = ["MaskedTrainingPlan", "OptimizerConfig", "load_checkpoint", "save_checkpoint"]
