"""Training: one compiled step of forward, loss, backward and update, and what runs it.

optimizers   how a weight changes by its gradient; clip, what is done to gradients before
graph        the graph of a step
weights      the state of a training: weights and slots, updated in place
step         compiled steps, for batches of any size
"""

from cnnir.training.clip import clip_norm, clip_value
from cnnir.training.graph import Objective, StepGraph, evaluation_graph, training_graph
from cnnir.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from cnnir.training.step import Step

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Objective",
    "Optimizer",
    "RMSProp",
    "Step",
    "StepGraph",
    "clip_norm",
    "clip_value",
    "evaluation_graph",
    "training_graph",
]
