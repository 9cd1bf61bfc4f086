"""Training: `fit` minimises `model.losses(x, labels, generator)["loss"]` with Adam."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from vaenb.checks import check_counts, check_number
from vaenb.distributions import seeded

Tensors = tuple[Tensor, ...] | list[Tensor]


class TrainingData(Protocol):
    """What `fit` learns from: an ImageSet, or anything else that gives batches."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) in [0, 1] and what `model.losses` takes beside them, labels for one."""


@dataclass(frozen=True)
class History:
    """Mean statistics of every finished epoch (the keys of `model.losses`), and whether training was interrupted."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False


class TrainingInterrupted(KeyboardInterrupt):
    """`trained` was stopped by Ctrl-C or the kernel's stop; `model` and `history` are what it had by then."""

    def __init__(self, model: nn.Module, history: History) -> None:
        super().__init__(f"training stopped after {len(history.epochs)} epochs; the model is usable but not stored")
        self.model = model
        self.history = history


def fit(
    model: nn.Module,
    data: TrainingData,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    ema: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `model` in place with Adam and leave it in evaluation mode.

    A model may ask for more steps after each batch: `model.further_steps` of them, each on
    `model.further_loss(x, generator)`; weights that this loss does not reach stay as they are.

    With `ema`, such as .9999, the model is left with the moving average of its weights (the history's losses are of
    the weights themselves): after batch 1 they are copied, after batch n + 1 the average keeps
    min(ema, (1 + n)/(10 + n)) of itself, so that a short training is not held back by its beginning. BatchNorm's
    running statistics are not averaged: they stay those of the weights themselves.

    `data` lies on the model's device. Batches are permutations of it drawn from `seed`; an incomplete last batch is
    left out. The same model, data, settings and seed give the same weights on one machine's CPU at one thread count, if
    all that the model draws comes from the generator it is given (dropout draws from torch's global one).

    Ctrl-C or a kernel's stop ends training after the step at hand: the weights stay usable and the history says
    `interrupted`; a second Ctrl-C stops at once. Raises FloatingPointError when the loss is no longer finite.
    """
    check_counts(epochs=epochs, batch_size=batch_size)
    check_number("lr", lr, "a positive learning rate", above=0)
    if ema is not None:
        check_number("ema", ema, "what the average keeps at a step, between 0 and 1,", above=0, below=1)
    _check_data(model, data)
    generator = seeded(seed, data.device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    epochs, batch_size = int(epochs), min(int(batch_size), len(data))
    steps = len(data) // batch_size
    history = History()
    # once a second: a notebook's front end that reads only at a cell's end keeps 1000 messages and loses the rest
    bar = tqdm(total=epochs * steps, leave=False, disable=not progress, mininterval=1)
    with _training(model) as stopped, _averaging(model, ema) as average, bar:
        for epoch in range(epochs):
            totals: dict[str, Tensor] = {}
            order = torch.randperm(len(data), generator=generator, device=data.device)[: steps * batch_size]
            for index in order.split(batch_size):
                losses = _learn(model, optimizer, data.batch(index), generator)
                average()
                for name, value in losses.items():
                    totals[name] = totals.get(name, torch.zeros_like(value)) + value
                bar.update()
                if stopped:
                    return History(history.epochs, interrupted=True)
            means = {name: (total / steps).item() for name, total in totals.items()}
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(
                    f"epoch {epoch + 1}: the loss is not finite ({means}); try a smaller lr than {lr}"
                )
            history.epochs.append(means)
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
    return history


def _learn(
    model, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Make all steps of one batch, and give its statistics."""
    x, labels = batch
    x = x.contiguous(memory_format=torch.channels_last)
    losses = model.losses(x, labels, generator)
    _step(optimizer, losses["loss"])
    for _ in range(getattr(model, "further_steps", 0)):
        _step(optimizer, model.further_loss(x, generator))
    return {name: value.detach() for name, value in losses.items()}


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _check_data(model: nn.Module, data: TrainingData) -> None:
    if len(data) == 0:
        raise ValueError("data: the image set is empty")
    device = next(model.parameters()).device
    if device != data.device:
        raise ValueError(f"data: it is on {data.device} and the model on {device}; use data.to({str(device)!r})")


@contextmanager
def _averaging(model: nn.Module, ema: float | None) -> Iterator[Callable[[], None]]:
    """Yield what takes the weights at hand into their moving average; at the end the model gets the average."""
    if ema is None:
        yield lambda: None
        return

    def blend(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        kept = min(ema, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, 1 - kept)

    average = AveragedModel(model, multi_avg_fn=blend)
    try:
        yield lambda: average.update_parameters(model)
    finally:
        model.load_state_dict(average.module.state_dict())


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
