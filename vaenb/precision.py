"""Metrics and chains compute in float32 at least: in half precision E[x²] − E[x]² cancels, and 500 nats are coarse."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is coarser: float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def after_autocast(x: Tensor) -> Tensor:
    """What a network gives, widened where autocast made it coarse: a KL is a small difference of large numbers."""
    return widened(x) if torch.is_autocast_enabled(x.device.type) else x


def no_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute in the precision of what it is given, also where the caller has autocast on."""

    @wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return plain


def check_precision(name: str, *values: Tensor) -> None:
    """Refuse half precision, whose rounding is larger than what is measured. Raises TypeError."""
    for x in values:
        if isinstance(x, Tensor) and x.is_floating_point() and widened(x).dtype != x.dtype:
            raise TypeError(
                f"{name}: float32 or float64 expected, got {x.dtype}, whose rounding is larger than what is measured; "
                "use model.float() and .float() of what you give it"
            )
