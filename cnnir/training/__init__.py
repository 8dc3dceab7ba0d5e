"""Training: one compiled step of forward, loss, backward and update, and what runs it.

optimizers   how a weight changes by its gradient; schedules, clip and loss_scaling go with it
newton       how all weights change by the loss's second derivatives
graph        the graph of a step
weights      the state of a training: weights and slots, updated in place
step         compiled steps, for batches of any size; newton_step those of newton
trainer      epochs: data, history, stopping, checkpoint and progress are its parts
"""

from cnnir.training.clip import clip_norm, clip_value
from cnnir.training.graph import Objective, StepGraph, evaluation_graph, training_graph
from cnnir.training.history import History
from cnnir.training.loss_scaling import LossScaling
from cnnir.training.newton import NewtonCG
from cnnir.training.newton_step import NewtonRecord, NewtonStep
from cnnir.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from cnnir.training.schedules import Cosine, OneCycle, Steps, WarmUp
from cnnir.training.step import Step
from cnnir.training.stopping import EarlyStopping
from cnnir.training.trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Cosine",
    "EarlyStopping",
    "History",
    "LossScaling",
    "NewtonCG",
    "NewtonRecord",
    "NewtonStep",
    "Objective",
    "OneCycle",
    "Optimizer",
    "RMSProp",
    "Step",
    "StepGraph",
    "Steps",
    "Trainer",
    "WarmUp",
    "clip_norm",
    "clip_value",
    "evaluation_graph",
    "training_graph",
]
