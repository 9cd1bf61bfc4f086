"""The steps of a training: Adam's, at a one-cycle learning rate.

The rate rises to its peak by half a cosine in the first fifth of the steps, and falls to about zero by another one in
the rest (Smith and Topin, 2019, and `torch.optim.lr_scheduler.OneCycleLR`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from vaenb.checks import NotFinite
from vaenb.distributions import seeded
from vaenb.training.recipe import Recipe, TrainingData

Tensors = tuple[Tensor, ...] | list[Tensor]

WARM_UP = 0.2  # of the steps
_SHORTEST = 10  # steps of a cycle: a shorter training sees its beginning, and OneCycleLR divides by zero at 5


class Steps:
    """A training under way: all that changes from step to step."""

    def __init__(self, model: Any, data: TrainingData, held_out: TrainingData | None, recipe: Recipe) -> None:
        self.model, self.data, self.held_out, self.recipe = model, data, held_out, recipe
        self.batch_size = min(recipe["batch_size"], len(data))
        self.steps_an_epoch = len(data) // self.batch_size
        self.steps = recipe["epochs"] * self.steps_an_epoch
        self.generator = seeded(recipe["seed"], data.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=recipe["lr"], fused=True)
        self.scheduler = _scheduler(self.optimizer, recipe, self.steps)
        self.average = None if recipe["ema"] is None else _average(model, recipe["ema"])
        self.done = 0
        self.order = torch.zeros(len(data), dtype=torch.int64, device=data.device)  # of the epoch at hand
        self.totals: dict[str, Tensor] = {}  # its losses so far
        self.epochs: list[dict[str, float]] = []

    @property
    def between_epochs(self) -> bool:
        return self.done % self.steps_an_epoch == 0

    def step(self) -> None:
        """Learn from the next batch."""
        if self.between_epochs:
            torch.randperm(len(self.data), generator=self.generator, out=self.order)
            self.totals = {}
        place = self.done % self.steps_an_epoch * self.batch_size
        losses = self._learn(self.order[place : place + self.batch_size])
        self.scheduler.step()
        if self.average:
            self.average.update_parameters(self.model)
        for name, value in losses.items():
            value = value.detach().float()
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        self.done += 1
        if self.between_epochs:
            self.epochs.append(self._means())

    def _learn(self, index: Tensor) -> dict[str, Tensor]:
        """Make all updates of one batch, and give its statistics."""
        x, labels = _laid_out(self.data.batch(index))
        with self._autocast(), self._watched(x):
            losses = self.model.losses(x, labels, self.generator)
        self._update(losses["loss"])
        for _ in range(getattr(self.model, "further_steps", 0)):
            with self._autocast(), self._watched(x):
                loss = self.model.further_loss(x, self.generator)
            self._update(loss)
        return losses

    @contextmanager
    def _watched(self, x: Tensor) -> Iterator[None]:
        """Say that the training diverged where a model refuses its own latents, before there is a loss."""
        try:
            yield
        except NotFinite as error:
            if not x.isfinite().all():
                raise  # the fault of the data
            raise self._diverged(str(error)) from error

    def _autocast(self) -> torch.autocast:
        wanted = self.recipe["precision"] == "bfloat16"
        return torch.autocast(self.data.device.type, dtype=torch.bfloat16, enabled=wanted)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip = self.recipe["clip"]
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()

    def _means(self) -> dict[str, float]:
        means = {name: (total / self.steps_an_epoch).item() for name, total in self.totals.items()}
        if not math.isfinite(means["loss"]):
            raise self._diverged(means)
        if self.held_out is not None:
            means["validation_loss"] = self._validation_loss(self.held_out)
        return means

    def _diverged(self, found: dict | str) -> FloatingPointError:
        remedy = f"try a smaller lr than {self.recipe['lr']}, or clip the gradient"
        return FloatingPointError(f"epoch {len(self.epochs) + 1}: the loss is not finite ({found}); {remedy}")

    @torch.no_grad()
    def _validation_loss(self, held_out: TrainingData) -> float:
        model: Any = self.average.module if self.average else self.model
        generator = seeded(0, held_out.device)
        every = torch.arange(len(held_out), device=held_out.device)
        # of nearly one size: what a loss over a batch is depends on it
        batches = every.tensor_split(math.ceil(len(held_out) / self.batch_size))
        total = torch.zeros((), device=held_out.device)
        model.eval()
        for index in batches:
            x, labels = _laid_out(held_out.batch(index))
            with self._watched(x):
                total += model.losses(x, labels, generator)["loss"] * len(index)
        self.model.train()
        return (total / len(held_out)).item()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the average of its weights at the end, however it ends."""
        try:
            yield
        finally:
            if self.average:
                self.model.load_state_dict(self.average.module.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """All that a training needs to go on, but for what `numbers` says."""
        found = {"order": self.order, "generator": self.generator.get_state(), "random": torch.get_rng_state()}
        buffers = dict(self.model.named_buffers())  # also those that state_dict leaves out
        parts = {"model": self.model.state_dict(), "buffers": buffers, "totals": self.totals}
        if self.average:
            parts["average"] = self.average.state_dict()
        for number, moments in self.optimizer.state_dict()["state"].items():
            parts[f"adam.{number}"] = moments
        for part, tensors in parts.items():
            for name, value in tensors.items():
                found[f"{part}.{name}"] = value
        return found

    def numbers(self) -> dict:
        groups = self.optimizer.state_dict()["param_groups"]
        scheduler = self.scheduler.state_dict()
        return {"done": self.done, "epochs": self.epochs, "groups": groups, "scheduler": scheduler}

    def load(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take up what `tensors` and `numbers` said."""
        self.model.load_state_dict(part(tensors, "model."))
        for name, value in part(tensors, "buffers.").items():
            self.model.get_buffer(name).copy_(value)
        if self.average:
            self.average.load_state_dict(part(tensors, "average."))
        moments = {}
        for number, parameter in enumerate(self.model.parameters()):
            held = part(tensors, f"adam.{number}.")
            if held:
                moments[number] = {name: _laid_out_as(parameter, value) for name, value in held.items()}
        self.optimizer.load_state_dict({"state": moments, "param_groups": numbers["groups"]})
        self.scheduler.load_state_dict(numbers["scheduler"])
        self.order.copy_(tensors["order"])
        self.totals = {name: value.to(self.data.device) for name, value in part(tensors, "totals.").items()}
        self.done, self.epochs = numbers["done"], numbers["epochs"]
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["random"])


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    if recipe["schedule"] == "constant":
        return ConstantLR(optimizer, factor=1.0)
    total = max(steps, _SHORTEST)
    return OneCycleLR(optimizer, recipe["lr"], total_steps=total, pct_start=WARM_UP, cycle_momentum=False)


def _average(model: nn.Module, ema: float) -> AveragedModel:
    def blend(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        kept = min(ema, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, 1 - kept)

    return AveragedModel(model, multi_avg_fn=blend)


def _laid_out(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, labels = batch
    return x.contiguous(memory_format=torch.channels_last), labels


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Put a moment into its parameter's memory layout, which the fused Adam takes for granted."""
    if value.shape != parameter.shape:  # the count of steps
        return value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
