"""`fit`: a training from its recipe, which can be stopped and goes on."""

import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from tqdm.auto import tqdm

from vaenb import files, tensorfile
from vaenb.tensorfile import DamagedCheckpoint
from vaenb.training.recipe import Recipe, TrainingData, check_data, check_precision, complete, divided, named
from vaenb.training.steps import Steps, part

SAVE_EVERY = 60.0  # seconds between two writings of a training under way


@dataclass(frozen=True)
class History:
    """Mean statistics of every finished epoch (the keys of `model.losses`), and how they came about."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    precision: str = "float32"
    seconds: float = field(default=0.0, compare=False)  # that the training took; 0: not known


class TrainingInterrupted(KeyboardInterrupt):
    """`trained` was stopped by Ctrl-C or the kernel's stop; `model` and `history` are what it had by then."""

    def __init__(self, model: nn.Module, history: History, *, kept: bool) -> None:
        later = "the same call goes on from here" if kept else "the same call begins anew"
        super().__init__(f"training stopped after {len(history.epochs)} epochs; the model is usable, and {later}")
        self.model = model
        self.history = history


def fit(
    model: nn.Module,
    data: TrainingData,
    *,
    state: Path | str | None = None,
    progress: bool = True,
    **recipe: Unpack[Recipe],
) -> History:
    """Train `model` in place with Adam and leave it in evaluation mode.

    The recipe is `epochs` and, where it differs from DEFAULTS:
    - `batch_size`, 128. Batches are permutations of the data; an incomplete last one is left out.
    - `lr`, 3e-3, the peak of the "one-cycle" `schedule`, reached after a fifth of the steps; or the "constant" rate.
    - `clip`: a step's gradient of all weights is shortened to this L2 norm; by default none is.
    - `validation`: images, or a share of the data to hold out (drawn once, the same for every seed). Their mean loss in
      evaluation mode, in float32 and with the same noise each time, is each epoch's "validation_loss". The training
      draws the same numbers with and without images.
    - `ema`, such as .9999: the model is left with the moving average of its weights, which is also what is validated
      (the other losses are of the weights themselves): after batch 1 they are copied, after batch n + 1 the average
      keeps min(ema, (1 + n)/(10 + n)) of itself, so that a short training is not held back by its beginning.
      BatchNorm's running statistics are not averaged: they stay those of the weights themselves.
    - `precision`, "float32", or "bfloat16": losses are computed under autocast, weights stay in float32. Raises
      ValueError where the processor has no such arithmetic.
    - `seed`, 0. The same model, data, recipe and seed give the same weights on one machine's CPU at one thread count,
      if all that the model draws comes from the generator it is given (dropout draws from torch's global one).

    A model may ask for more steps after each batch: `model.further_steps` of them, each on
    `model.further_loss(x, generator)`; weights that this loss does not reach stay as they are.

    Ctrl-C or a kernel's stop ends training after the step at hand: the weights stay usable and the history says
    `interrupted`; a second Ctrl-C stops at once. With `state`, a file, the training under way is written there, every
    minute and when it is stopped: the same call goes on from it, to exactly the weights of a training that was never
    stopped. Remove it when these are stored. A file of other data, another recipe or other shapes raises ValueError
    (that it is this model's, the caller knows); a damaged one is named in a warning, and the training begins anew.
    Raises FloatingPointError when the loss is no longer finite.
    """
    full = complete(recipe)
    check_data(model, data)
    check_precision(full["precision"], data.device)
    lessons, held_out = divided(data, full["validation"])
    if held_out is not None:
        check_data(model, held_out, "validation")
    model.to(memory_format=torch.channels_last)
    run = Steps(model, lessons, held_out, full)
    about = {**full, "data": named(data), "validation": named(full["validation"])}
    kept = _Kept(None if state is None else files.expanded(state), run, about)
    kept.resume()
    # once a second: a notebook's front end that reads only at a cell's end keeps 1000 messages and loses the rest
    bar = tqdm(total=run.steps, initial=run.done, leave=False, disable=not progress, mininterval=1)
    with _training(model) as stopped, run.averaged(), bar:
        while run.done < run.steps and not stopped:
            kept.step()
            bar.update()
            if run.between_epochs:
                shown = {name: f"{value:.4g}" for name, value in run.epochs[-1].items()}
                bar.set_postfix(shown, refresh=False)
        if stopped:
            kept.save()
    return History(run.epochs, bool(stopped), full["precision"], round(kept.seconds, 1))


class _Kept:
    """The file of a training under way, if there is to be one."""

    def __init__(self, path: Path | None, run: Steps, about: dict) -> None:
        self.path, self.run = path, run
        self.begun = self.written = time.monotonic()
        self.before = 0.0  # seconds of the training until it was stopped
        self.about = json.dumps(about, default=files.plain)

    @property
    def seconds(self) -> float:
        """How long the training has taken, all its parts together."""
        return self.before + time.monotonic() - self.begun

    def resume(self) -> None:
        """Go on from the file, where it is there and whole. Raises ValueError where it is another training's."""
        if self.path is None or not self.path.exists():
            return
        try:
            tensors, notes = tensorfile.read(self.path)
            if notes.get("about") != self.about:
                raise ValueError(f"state: {self.path} is of another training, {notes.get('about')}; name another file")
            weights = self.run.model.state_dict()
            tensorfile.check_names_and_shapes(self.path, part(tensors, "model."), weights, "model")
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; the training begins anew", stacklevel=4)
            return
        self.run.load(tensors, json.loads(notes["numbers"]))
        self.before = float(notes.get("seconds", 0))

    def step(self) -> None:
        """Make a step of the training, and keep it now and then; one that fails is not kept, as it would fail again."""
        try:
            self.run.step()
        except FloatingPointError:
            self.remove()
            raise
        if time.monotonic() - self.written >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self.path is None:
            return
        notes = {"about": self.about, "numbers": json.dumps(self.run.numbers()), "seconds": f"{self.seconds:.1f}"}
        try:
            tensorfile.write(self.path, self.run.tensors(), notes)
        except OSError as reason:
            warnings.warn(f"the training under way could not be kept in {self.path.parent} ({reason})", stacklevel=4)
        self.written = time.monotonic()

    def remove(self) -> None:
        if self.path is not None:
            with suppress(OSError):  # where there is no such folder
                self.path.unlink()


@contextmanager
def _training(model: nn.Module) -> Iterator[list[int]]:
    """Put the model in training mode, and in evaluation mode at the end, however it ends.

    Collects the first SIGINT instead of raising in the middle of an optimiser step; the second one raises.
    """
    stopped: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)

    def note(signum, frame) -> None:
        stopped.append(signum)
        signal.signal(signal.SIGINT, before)

    if in_main:
        signal.signal(signal.SIGINT, note)
    try:
        model.train()
        yield stopped
    finally:
        model.eval()
        if in_main:
            signal.signal(signal.SIGINT, before)
