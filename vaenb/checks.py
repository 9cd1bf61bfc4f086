"""Every refusal of bad input, once: which argument, what was expected, what came, and what to do about it."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor, nn


def check_model(model) -> None:
    """Refuse what is not a LatentModel, and a model in training mode.

    In training mode BatchNorm makes the images of one batch influence each other, so that neither an attack nor a
    chain belongs to its image. Raises TypeError or ValueError.
    """
    adapters = [model]
    for adapter in adapters:  # grows: an adapter holds its net, or a model that is itself an adapter
        methods = ("posterior", "decode", "log_prior", "log_likelihood")
        missing = [m for m in methods if not callable(getattr(adapter, m, None))]
        if missing:
            raise TypeError(
                f"model: {type(adapter).__name__} has no {', '.join(missing)}; a LatentModel has posterior(x), "
                "decode(z), log_prior(z) and log_likelihood(x, z): wrap yours in a class with these four methods"
            )
        parts = [adapter, *vars(adapter).values()] if hasattr(adapter, "__dict__") else [adapter]
        if any(m.training for part in parts if isinstance(part, nn.Module) for m in part.modules()):
            raise ValueError(
                "model: it is in training mode, where BatchNorm mixes the images of a batch; call model.eval()"
            )
        models = [part for part in parts if hasattr(part, "log_likelihood") and not isinstance(part, nn.Module)]
        adapters += [part for part in models if all(part is not known for known in adapters)]


def check_gradients() -> None:
    """Refuse torch.inference_mode(): it can't be lifted for the tensors made in it, as torch.no_grad() can."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an attack or a chain needs gradients, which torch.inference_mode() forbids; use no_grad()")


def check_images(x: Tensor, name: str = "x") -> None:
    """Refuse what is not a non-empty float batch (N, C, H, W) of finite values in [0, 1]."""
    check_batch(x, name, dims=4, shape="images (N, C, H, W)")
    low, high = x.detach().aminmax()
    if low < 0 or high > 1:
        hint = "; divide by 255" if high > 2 and low >= 0 else "; (x + 1) / 2 maps −1…1 to 0…1" if low >= -1.01 else ""
        raise ValueError(f"{name}: pixels in [0, 1] expected, got values from {low:.4g} to {high:.4g}{hint}")


def check_latents(z: Tensor, name: str = "z") -> None:
    """Refuse what is not a non-empty float batch (N, D) of finite values."""
    check_batch(z, name, dims=2, shape="flat latents (N, D)")


def check_labels(labels: Tensor, count: int, classes: int | None = None) -> None:
    """Refuse what is not `count` whole numbers from 0 to `classes` − 1. Raises TypeError or ValueError."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: a tensor of integers expected, got {got}")
    if labels.shape != (count,):
        raise ValueError(f"labels: one for each of the {count} rows, ({count},), expected, got {tuple(labels.shape)}")
    low, high = labels.aminmax()
    if low < 0:
        raise ValueError(f"labels: ≥ 0 expected, got {low}; −1 stands for no label, and nothing is learnt from it")
    if classes is not None and high >= classes:
        raise ValueError(f"labels: 0 to {classes - 1} expected, got {high}; build the classifier with more classes")


def check_classifier(classifier) -> None:
    """Refuse what cannot be called, and a network in training mode. Raises TypeError or ValueError."""
    if not callable(classifier):
        raise TypeError(f"classifier: a callable that gives logits (N, K) expected, got {type(classifier).__name__}")
    if isinstance(classifier, nn.Module) and any(m.training for m in classifier.modules()):
        raise ValueError("classifier: it is in training mode; call classifier.eval()")


def check_whole(name: str, value, least: int = 1) -> None:
    """Refuse what is not a whole number ≥ `least`; numpy's are whole numbers, True is none. Raises ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: a whole number ≥ {least} expected, got {value!r}")


def check_counts(**counts: int) -> None:
    """Refuse counts that are not whole numbers ≥ 1: `check_counts(steps=steps, chunk=chunk)`."""
    for name, value in counts.items():
        check_whole(name, value)


def check_number(
    name: str,
    value,
    what: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Refuse what is not a finite number between the bounds; `what` says in words what was expected.

    Raises ValueError, as in "lr: a positive learning rate expected, got -1".
    """
    fits = isinstance(value, Real) and above < value < below and least <= value <= most
    if not fits:
        raise ValueError(f"{name}: {what} expected, got {value!r}")


def check_choice(name: str, value, choices: Iterable[str]) -> None:
    """Refuse a name that is not one of the `choices`. Raises ValueError."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name}: one of {', '.join(choices)} expected, got {value!r}")


def check_vector(x, name: str, count: int | None = None) -> None:
    """Refuse what is not a tensor of finite numbers (N,), N ≥ 1 or as many as `count`. Raises TypeError, ValueError."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch tensor (N,) expected, got {type(x).__name__}")
    if x.ndim != 1 or len(x) == 0 or count not in (None, len(x)):
        raise ValueError(f"{name}: one number for each image, ({count or 'N'},), expected, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: NaN or infinite values at {(~x.isfinite()).nonzero().flatten().tolist()[:5]}")


def check_batch(x, name: str, *, dims: int, shape: str) -> None:
    """Refuse what is not a non-empty float tensor of `dims` dimensions and finite values; `shape` names it in words."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch tensor of {shape} expected, got {type(x).__name__}")
    if x.ndim != dims:
        raise ValueError(f"{name}: {shape} expected, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        hint = "; use .float() / 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"{name}: floats expected, got {x.dtype}{hint}")
    if x.numel() == 0:
        raise ValueError(f"{name}: the batch is empty, shape {tuple(x.shape)}")
    if not x.isfinite().all():
        rows = (~x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        raise ValueError(f"{name}: NaN or infinite values in row(s) {rows[:5]} of {len(x)}")
