"""Lightning modules and checkpoints."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.train._alignment_plan import AlignmentPlan
    from stimage.train._checkpoint import load_checkpoint, save_checkpoint
    from stimage.train._finite_loss import FiniteLoss
    from stimage.train._history import LossHistory
    from stimage.train._optimizer import AlignmentOptimizerConfig, OptimizerConfig
    from stimage.train._plan import MaskedTrainingPlan
    from stimage.train._processes import is_first_process, of_first_process
    from stimage.train._training_checkpoints import Progress, TrainingCheckpoints

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_alignment_plan": ["AlignmentPlan"],
        "_checkpoint": ["load_checkpoint", "save_checkpoint"],
        "_finite_loss": ["FiniteLoss"],
        "_history": ["LossHistory"],
        "_optimizer": ["AlignmentOptimizerConfig", "OptimizerConfig"],
        "_plan": ["MaskedTrainingPlan"],
        "_processes": ["of_first_process", "is_first_process"],
        "_training_checkpoints": ["Progress", "TrainingCheckpoints"],
    },
)
