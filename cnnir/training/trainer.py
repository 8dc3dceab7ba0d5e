"""Trainer: goes through data for epochs, by compiled steps; validates, stops, keeps checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnnir.errors import InputError, IRError, TrainingError
from cnnir.frontends.dsl.module import Module
from cnnir.recompute import Choice
from cnnir.training.checkpoint import Checkpoint, read, write
from cnnir.training.clip import Clip
from cnnir.training.data import Arrays, Batch, Data, data_of, several, shared_out
from cnnir.training.history import History, Mean, Row
from cnnir.training.loss_scaling import LossScaling
from cnnir.training.newton_step import NewtonStep, is_newton
from cnnir.training.optimizers import Groups, Optimizer
from cnnir.training.progress import Show, shown
from cnnir.training.ready import make_ready
from cnnir.training.step import Step
from cnnir.training.stopping import EarlyStopping, Watch

BATCH = 32

AfterEpoch = Callable[["Trainer", Row], Any]


class Trainer:
    """Trains a net of `cnnir.nn`: `Trainer(net, "cross_entropy", SGD(0.1)).fit(x, y, epochs=3)`.

    loss: a function of the net's output and the target, or a name ("cross_entropy",
    "squared_error", ...). optimizer: for all weights, or by patterns of names, such as
    {"head.*": SGD(0.1)}; what is in no group is not trained. metrics: what else is computed,
    "accuracy" or functions of output and target. regularisers: terms of the loss by patterns of
    names. clip: of gradients. scaling: of the loss, see `LossScaling`. seed: of the order of
    samples, of dropout and of weights that do not exist yet: the same seed gives the same weights,
    bit for bit, for any number of threads. recompute: less memory for more time, see
    `cnnir.gradient`. target, options: as of `cnnir.compile`, such as `threads`.

    `net.params` has the current weights at any time.
    """

    def __init__(
        self,
        net: Module,
        loss: Any = None,
        optimizer: Optimizer | Groups | None = None,
        *,
        metrics: Any = (),
        regularisers: Mapping[str, Callable] | None = None,
        clip: Clip | None = None,
        scaling: LossScaling | None = None,
        seed: int = 0,
        recompute: Choice | None = None,
        target: str = "cpu",
        **options: Any,
    ) -> None:
        if not isinstance(net, Module):
            raise InputError(
                f"net is of type {type(net).__name__}, wanted a net of cnnir.nn; nn.Imported makes "
                "one of a graph or of an ONNX model"
            )
        if type(seed) is not int or seed < 0:
            raise InputError(f"seed is {seed!r}, wanted an integer of at least 0")
        self.net, self.seed = net, seed
        make = NewtonStep if is_newton(optimizer) else Step
        self.step = make(
            net, loss, optimizer, metrics=metrics, regularisers=regularisers, clip=clip,
            scaling=scaling, seed=seed, recompute=recompute, target=target, **options,
        )  # fmt: skip
        self.history = History()
        self.epoch = 0
        """Epochs that are over."""

    # ------------------------------------------------------------------ training

    def fit(
        self,
        x: Any,
        y: Any = None,
        epochs: int = 1,
        batch_size: int = BATCH,
        *,
        validation: Any = None,
        shuffle: bool = True,
        partial: str = "keep",
        stopping: EarlyStopping | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
        resume: bool = False,
        after_epoch: AfterEpoch | None = None,
        show: str = "auto",
    ) -> History:
        """Train for so many more epochs; the history, which goes on where it was.

        x, y: arrays (or tuples of them) whose first axis counts samples; or x alone: an iterable of
        batches (inputs, targets), or a function that gives one for every epoch.
        validation: (x, y), a list or other iterable of batches, or the share of the samples to
        hold back.
        partial: "keep" or "drop" the last batch where it is smaller than the others.
        checkpoint: a file that is written after every epoch, and after `every` steps as well.
        resume: go on from that file, if it is there, to the epoch where that `fit` would have
        ended, with the same bits.
        after_epoch: called with the trainer and the epoch's row; to give True ends the training.
        show: "bar", "lines", "none", or "auto", a bar in a terminal.

        Raises InputError for data that does not fit, TrainingError for a loss that is no number.
        """
        if type(epochs) is not int or epochs < 1:
            raise InputError(f"epochs is {epochs!r}, wanted an integer of at least 1")
        if isinstance(validation, float) and y is not None:
            x, y, validation = shared_out(x, y, validation, self.seed)
        data = data_of(x, y, batch_size, seed=self.seed if shuffle else None, partial=partial)
        run = _Run(self, data, _validation(validation, batch_size), Watch(stopping), checkpoint)
        run.every, run.after_epoch, run.last = every, after_epoch, self.epoch + epochs
        if resume and checkpoint is not None and os.path.exists(checkpoint):
            run.resume()
        display = shown(show)
        try:
            run.go(display)
        finally:
            display.close()
        return self.history

    # ------------------------------------------------------------------ using

    def evaluate(self, x: Any, y: Any = None, batch_size: int = BATCH) -> Row:
        """The loss and the metrics in the net's inference form: means over the samples."""
        return self._means(data_of(x, y, batch_size))

    def predict(self, x: Any, batch_size: int = BATCH) -> Any:
        """What the net gives in its inference form, for all samples: an array, or some by name."""
        inputs = several(x, "x")
        parts = [
            self.step.predict([a[start : start + batch_size] for a in inputs])
            for start in range(0, len(inputs[0]), batch_size)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return joined["output"] if list(joined) == ["output"] else joined

    def _means(self, data: Data) -> Row:
        mean = Mean()
        for batch in data.batches(0):
            mean.add(self.step.evaluate(batch.inputs, batch.targets), batch.size)
        return mean.row()


def _validation(given: Any, batch_size: int) -> Data | None:
    if given is None:
        return None
    if isinstance(given, tuple) and len(given) == 2:
        return data_of(*given, batch_size)
    return data_of(given, None, batch_size)


class _Run:
    """One call of fit: where it is, and how to find the way back there."""

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        validation: Data | None,
        watch: Watch,
        path: str | os.PathLike[str] | None,
    ) -> None:
        self.trainer, self.data, self.validation, self.watch = trainer, data, validation, watch
        self.path = None if path is None else os.fspath(path)
        self.every: int | None = None
        self.after_epoch: AfterEpoch | None = None
        self.first, self.last = trainer.epoch, trainer.epoch
        self.batch = 0
        """Batches of the epoch that are done."""
        self.mean = Mean()
        self.seconds = 0.0

    def go(self, show: Show) -> None:
        """Epoch after epoch, to the last one or until a rule ends it."""
        trainer = self.trainer
        while trainer.epoch < self.last:
            row = self._epoch(show)
            show.end(row)
            ended = self.watch.done(row, self._weights)
            self._save()
            wished = self.after_epoch(trainer, row) if self.after_epoch else None
            if ended or wished is True:
                break
        if self.watch.best is not None and trainer.step.weights is not None:
            trainer.step.weights.write(self.watch.best)

    def _epoch(self, show: Show) -> Row:
        trainer, started, before = self.trainer, time.perf_counter(), self.seconds
        show.begin(trainer.epoch + 1, self.last, self.data.count)
        for number, batch in enumerate(self.data.batches(trainer.epoch)):
            if number < self.batch:
                continue  # done before the checkpoint was written
            self._step(batch)
            show.step(self.batch, self.mean.row())
            if self.every and trainer.step.number % self.every == 0:
                self.seconds = before + time.perf_counter() - started
                self._save()
        row = {"epoch": trainer.epoch + 1, **self.mean.row()}
        if self.validation is not None:
            means = trainer._means(self.validation)
            row |= {f"validation {name}": number for name, number in means.items()}
        row |= _rates(trainer.step.rates(trainer.epoch + 1.0))
        row["seconds"] = before + time.perf_counter() - started
        trainer.history.rows.append(row)
        trainer.epoch, self.batch, self.mean, self.seconds = trainer.epoch + 1, 0, Mean(), 0.0
        return row

    def _ready(self, batch: Batch) -> None:
        """Before an epoch's first step: the net is built, and has not changed unnoticed."""
        make_ready(self.trainer.net, batch, self.trainer.seed)
        self.trainer.step.follow()

    def _step(self, batch: Batch) -> None:
        trainer = self.trainer
        now = trainer.epoch + (self.batch / self.data.count if self.data.count else 0.0)
        try:
            if not self.batch:
                self._ready(batch)
            numbers = trainer.step(batch.inputs, batch.targets, now)
        except IRError as error:
            raise type(error)(f"{error}{_hint(batch, self.data)}") from None
        self.batch += 1
        trainer.history.losses.append(numbers["loss"])
        if not math.isfinite(numbers["loss"]):
            raise TrainingError(_no_number(trainer, batch, numbers["loss"], now))
        self.mean.add(numbers, batch.size)

    # ------------------------------------------------------------------ checkpoints

    def _weights(self) -> dict[str, np.ndarray]:
        assert self.trainer.step.weights is not None
        return self.trainer.step.weights.read()

    def _save(self) -> None:
        if self.path is None:
            return
        trainer, watch = self.trainer, self.watch
        notes = {
            "first": self.first, "epoch": trainer.epoch, "batch": self.batch,
            "step": trainer.step.number, "seed": trainer.seed,
            "rows": trainer.history.rows, "losses": trainer.history.losses,
            "sums": self.mean.sums, "samples": self.mean.samples, "seconds": self.seconds,
            "best": watch.value, "waited": watch.waited,
        }  # fmt: skip
        write(self.path, Checkpoint(self._weights(), watch.best, notes))

    def resume(self) -> None:
        """Take up what the checkpoint left."""
        assert self.path is not None
        trainer, watch = self.trainer, self.watch
        first = self.data.first(trainer.epoch)
        self._ready(first)
        trainer.step.compiled(first.inputs, first.targets)
        assert trainer.step.weights is not None
        point = read(self.path, trainer.step.weights.types)
        notes = point.notes
        if notes["seed"] != trainer.seed:
            raise InputError(
                f"the checkpoint was written with seed {notes['seed']}, this is {trainer.seed}"
            )
        epochs = self.last - self.first
        self.first, self.last = notes["first"], notes["first"] + epochs
        self.batch, self.seconds = notes["batch"], notes["seconds"]
        self.mean.sums, self.mean.samples = notes["sums"], notes["samples"]
        trainer.epoch, trainer.step.number = notes["epoch"], notes["step"]
        trainer.history.rows[:], trainer.history.losses[:] = notes["rows"], notes["losses"]
        watch.value, watch.waited, watch.best = notes["best"], notes["waited"], point.best
        trainer.step.weights.write(point.now)


def _rates(rates: Mapping[str, float]) -> Row:
    if len(rates) == 1:
        return {"learning_rate": next(iter(rates.values()))}
    return {f"learning_rate {pattern}": rate for pattern, rate in rates.items()}


def _hint(batch: Batch, data: Data) -> str:
    """What is special about the last batch, where it did not fit."""
    if isinstance(data, Arrays) and batch.size < data.size < data.length:
        return (
            f"\n  this is the last batch, with {batch.size} of {data.length} samples; "
            "partial='drop' leaves it out"
        )
    return ""


def _no_number(trainer: Trainer, batch: Batch, loss: float, epoch: float) -> str:
    """Why a loss may be nan or inf."""
    said = f"the loss is {loss} in step {trainer.step.number} (epoch {trainer.epoch + 1})"
    for name, arrays in (("input", batch.inputs), ("target", batch.targets)):
        for array in arrays:
            bad = array.size - np.isfinite(array.astype(np.float64)).sum()
            if bad:
                return f"{said}: {bad} of {array.size} numbers of the {name} are not finite"
    rate = ", ".join(f"{r:g}" for r in trainer.step.rates(epoch).values())
    return (
        f"{said}: the data is finite, so the weights have run away; wanted a smaller learning rate "
        f"than {rate}, warm-up, or clipping, and weights from before"
    )
