"""Lightning modules and checkpoints."""

from stimage.train._alignment_plan import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._checkpoint import load_checkpoint, save_checkpoint
from stimage.train._finite_loss import FiniteLoss
from stimage.train._history import LossHistory
from stimage.train._plan import MaskedTrainingPlan, OptimizerConfig
from stimage.train._processes import from_first_process, is_first_process
from stimage.train._training_checkpoints import Progress, TrainingCheckpoints

__all__ = [
    "AlignmentOptimizerConfig",
    "AlignmentPlan",
    "FiniteLoss",
    "LossHistory",
    "MaskedTrainingPlan",
    "OptimizerConfig",
    "Progress",
    "TrainingCheckpoints",
    "from_first_process",
    "is_first_process",
    "load_checkpoint",
    "save_checkpoint",
]
