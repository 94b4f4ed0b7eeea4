"""Training: a recipe → a model folder, through samples, a split by place, the loop, and a look at what came out."""

from landcover.training.planning import Training, plan_training
from landcover.training.run import Trained, stopped_training, train

__all__ = ["Trained", "Training", "plan_training", "stopped_training", "train"]
