"""Every refusal of bad input, once: which argument, what was expected, what came, and what to do about it."""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


class NotFinite(ValueError):
    """A batch has NaN or infinite values."""


class NotDefined(TypeError):
    """What was asked for does not exist for this model; the message says why."""


GAUSSIAN = "return vaenb.models.DiagonalGaussian(mean, logvar)"  # the remedy for most that is wrong with a posterior
_TRAINING = "it is in training mode, where BatchNorm mixes the images of a batch and dropout is random"
METHODS = ("posterior", "decode", "log_prior", "log_likelihood")  # of a LatentModel


def check_model(model) -> None:
    """Refuse what is not a LatentModel, and a model in training mode.

    In training mode BatchNorm makes the images of one batch influence each other, so that neither an attack nor a
    chain belongs to its image. Raises TypeError or ValueError.
    """
    missing = [method for method in METHODS if not callable(getattr(model, method, None))]
    if missing:
        raise TypeError(
            f"model: {type(model).__name__} has no {', '.join(missing)}; a LatentModel has posterior(x), "
            "decode(z), log_prior(z) and log_likelihood(x, z): wrap yours in a class with these four methods, or "
            "by vaenb.audit.wrap(encode, decode)"
        )
    check_rest(model, "model")


def check_rest(network, name: str) -> None:
    """Refuse a network that is in training mode, or has a part that is; one that something holds finds `evaluating`."""
    if isinstance(network, nn.Module) and any(part.training for part in network.modules()):
        raise ValueError(f"{name}: {_TRAINING}; call {name}.eval()")


@contextmanager
def evaluating(name: str) -> Iterator[None]:
    """Refuse networks in training mode before they run in this thread, however held: torch tells of every call."""
    home = threading.get_ident()

    def refuse(module: nn.Module, given) -> None:
        if threading.get_ident() != home:
            return
        if module.training and type(module) is not nn.Sequential:  # a slice of one is new, and does nothing itself
            raise ValueError(
                f"{name}: {_TRAINING}: a {type(module).__name__} was about to run in it; "
                f"call {name}.eval(), or eval() of the network that it holds"
            )

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def check_gradients() -> None:
    """Refuse torch.inference_mode(): it can't be lifted for the tensors made in it, as torch.no_grad() can."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an attack or a chain needs gradients, which torch.inference_mode() forbids; use no_grad()")


def ordinary(x: Tensor) -> Tensor:
    """x without its history; of a tensor made in inference mode, which no gradient can pass, a copy."""
    return x.clone() if x.is_inference() else x.detach()


def check_images(x: Tensor, name: str = "x") -> None:
    """Refuse what is not a non-empty float batch (N, C, H, W) of finite values in [0, 1]."""
    check_batch(x, name, dims=4, shape="images (N, C, H, W)")
    low, high = (end.item() for end in x.detach().aminmax())
    if low < 0 or high > 1:
        got = f"got values from {low:.8g} to {high:.8g}"
        raise ValueError(f"{name}: pixels in [0, 1] expected, {got}; {_remedy(low, high)}")


def _remedy(low: float, high: float) -> str:
    """What brings pixels from `low` to `high` into [0, 1]."""
    if low >= 0 and high > 2:
        whole = next((most for most in (255, 4095, 65535) if high <= most), high)
        standardised = "; if they were standardised, x · std + mean undoes it" if high < 10 else ""
        return f"divide by {whole:g}{standardised}"
    if -1.01 <= low < -0.5 and high <= 1.01:
        return "(x + 1) / 2 maps −1…1 to 0…1; of images with noise, x.clamp(0, 1) cuts off what is outside"
    if low < -1.01 or (low < 0 and high > 2):
        return "if they were standardised, x · std + mean undoes it"
    return "x.clamp(0, 1) cuts off what a resize or noise left outside"


def check_model_and_images(model, x: Tensor, **counts: int) -> None:
    """The door of every engine: refuse a model, images x (N, C, H, W) and counts that it can't work with.

    Of the model it calls the four methods on two images and looks at what runs and at what comes back: a network in
    training mode, a likelihood that is summed over the batch, a tuple in place of a posterior or of images, logits in
    place of pixels would give wrong numbers in silence.
    """
    check_model(model)
    check_images(x)
    check_counts(**counts)
    few = x[:2].detach()
    with torch.no_grad(), evaluating("model"):
        q = model.posterior(few)
        check_posterior(q, len(few))
        images = model.decode(q.mean)
        check_decoded(images, few)
        check_pixels(images)
        for name, check, density in (
            ("log_prior", check_nats, lambda: model.log_prior(q.mean)),
            ("log_likelihood", check_nats, lambda: model.log_likelihood(few, q.mean)),
            ("posterior.log_prob", check_each, lambda: q.log_prob(q.mean)),  # infinite where q has no spread
        ):
            try:
                check(density(), name, len(few))
            except NotDefined:
                continue


def check_posterior(q, count: int) -> None:
    """Refuse what is no posterior of `count` images: a distribution over flat latents, with what attacks use of it."""
    missing = [name for name in ("mean", "stddev", "rsample", "log_prob", "__getitem__") if not hasattr(q, name)]
    if isinstance(q, (tuple, list, dict, Tensor)) or missing:
        lacks = f" without {', '.join(missing).replace('__getitem__', '[index]')}" if missing else ""
        raise TypeError(
            "posterior: a distribution with mean, stddev, rsample, log_prob, kl and [index] expected, got "
            f"{type(q).__name__}{lacks}; {GAUSSIAN}"
        )
    for name, value in (("posterior.mean", q.mean), ("posterior.stddev", q.stddev)):
        if isinstance(value, Tensor) and value.ndim > 2:
            raise ValueError(
                f"{name}: flat latents (N, D) expected, got {tuple(value.shape)}; use .flatten(1), and "
                f"z.unflatten(1, {tuple(value.shape[1:])}) first in decode"
            )
        check_batch(value, name, dims=2, shape="flat latents (N, D)")
        if len(value) != count or value.shape != q.mean.shape:
            raise ValueError(f"{name}: a row for each of {count} images expected, got {tuple(value.shape)}")


def check_decoded(images, x: Tensor | None = None) -> None:
    """Refuse what `decode` gives where it is no tensor of images (N, C, H, W), in the shape of x if there is one."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"decode: a tensor of images expected, got {type(images).__name__}; return the tensor in it, such as "
            ".sample (diffusers) or .reconstruction (pythae)"
        )
    if images.ndim != 4 or (x is not None and images.shape != x.shape):
        wanted = "(N, C, H, W)" if x is None else f"{tuple(x.shape)}, as x,"
        hint = "flat pixels need .view(-1, C, H, W)" if images.ndim == 2 else "is it the images' size and channels?"
        raise ValueError(f"decode: images {wanted} expected, got {tuple(images.shape)}; {hint}")


def check_pixels(images: Tensor) -> None:
    """Refuse decoded images that are no pixels in [0, 1], saying what a decoder's output may be instead."""
    try:
        check_images(images, "decode")
    except ValueError as error:
        logits = images.detach().isfinite().all() and images.detach().min() < -1.01
        hint = "; these look like logits: use .sigmoid()" if logits else ""
        raise ValueError(f"{error}{hint}") from None


def check_each(value, name: str, count: int) -> None:
    """Refuse what is not one number for each of `count` images, (N,). Raises ValueError."""
    if not isinstance(value, Tensor) or value.shape != (count,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        many = isinstance(value, Tensor) and value.ndim > 1
        hint = "use .flatten(1).sum(1)" if many else "sum over pixels or dimensions, never over the images"
        raise ValueError(f"{name}: nats, one number for each image, ({count},), expected, got {got}; {hint}")


def check_channels(x: Tensor, name: str = "x") -> None:
    """Refuse images (N, C, H, W) that are neither grey nor in colour."""
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{name}: one or three channels expected (N, C, H, W), got shape {tuple(x.shape)}")


def check_latents(z: Tensor, name: str = "z") -> None:
    """Refuse what is not a non-empty float batch (N, D) of finite values."""
    check_batch(z, name, dims=2, shape="flat latents (N, D)")


def check_nats(value, name: str, count: int) -> None:
    """Refuse log densities that are not finite, one for each of `count` images: (N,). Raises ValueError."""
    check_each(value, name, count)
    if not value.isfinite().all():
        raise ValueError(f"{name}: finite nats expected, got {value.tolist()}")


def check_input(network: nn.Module, x: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Refuse what is not a batch (N, *shape) of the dtype and on the device of the network's weights."""
    if x.shape[1:] != shape:
        raise ValueError(f"{name}: a batch (N, {', '.join(map(str, shape))}) expected, got {tuple(x.shape)}")
    weight = next(network.parameters(), x)
    same_type = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
    if not same_type or x.device != weight.device:
        hint = f"{name}.to(…)" if x.is_floating_point() else f"{name}.float() / 255"
        wanted = f"the model's {weight.dtype} on {weight.device}"
        raise TypeError(f"{name}: {wanted} expected, got {x.dtype} on {x.device}; use {hint}")


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
        raise ValueError(f"labels: 0 to {classes - 1} expected, one of {classes} classes, got {high}")


def check_classifier(classifier) -> None:
    """Refuse what cannot be called, and a network in training mode. Raises TypeError or ValueError."""
    if not callable(classifier):
        raise TypeError(f"classifier: a callable that gives logits (N, K) expected, got {type(classifier).__name__}")
    check_rest(classifier, "classifier")


def check_logits(values, count: int, name: str = "classifier") -> None:
    """Refuse what a classifier gives for `count` images unless it is finite logits (count, K), K ≥ 2."""
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != count or values.shape[1] < 2:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name}: logits ({count}, K) with K ≥ 2 expected for {count} images, got {got}")
    if not values.isfinite().all():
        raise ValueError(f"{name}: NaN or infinite logits")
    if values.min() >= 0 and (values.sum(1) - 1).abs().max() < max(1e-4, 2 * torch.finfo(values.dtype).eps):
        raise ValueError(f"{name}: it gives probabilities; logits expected, the values before the softmax")


def check_probabilities(values, labels: Tensor) -> None:
    """Refuse what are not probabilities (N, K), each row's sum 1, with labels (N,). Raises TypeError or ValueError."""
    check_batch(values, "probabilities", dims=2, shape="probabilities (N, K)")
    low, off = values.min(), (values.double().sum(1) - 1).abs().max()
    if low < -1e-4 or off > max(1e-4, torch.finfo(values.dtype).eps):
        raise ValueError(
            f"probabilities: rows in [0, 1] that sum to 1 expected, got values from {low:.4g} and sums up to {off:.4g} "
            "away from 1; these look like logits, use .float().softmax(1)"
        )
    check_labels(labels, *values.shape)


def check_image_shape(shape, least: int = 1) -> None:
    """Refuse what is not (C, H, W) in whole numbers, with sides of at least so many pixels."""
    if len(shape) != 3 or not all(isinstance(n, Integral) for n in shape) or shape[0] < 1 or min(shape[1:]) < least:
        raise ValueError(f"image_shape: (C, H, W) with sides of at least {least} pixels expected, got {shape!r}")


def check_whole(name: str, value, least: int = 1, most: float = math.inf) -> None:
    """Refuse what is not a whole number in these bounds; numpy's are whole numbers, True is none. Raises ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        bounds = f"≥ {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name}: a whole number {bounds} expected, got {value!r}")


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
    inside = isinstance(value, Real) and above < float(value) < below and least <= float(value) <= most
    if not inside:
        raise ValueError(f"{name}: {what} expected, got {value!r}")


def check_choice(name: str, value, choices: Iterable[str]) -> None:
    """Refuse a name that is not one of the `choices`. Raises ValueError."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name}: one of {', '.join(choices)} expected, got {value!r}")


def check_vector(x, name: str, count: int | None = None, what: str = "one number for each image") -> Tensor:
    """Refuse what is not a tensor of finite numbers (N,), N ≥ 1 or as many as `count`; give it in doubles on the CPU.

    Raises TypeError or ValueError.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch tensor (N,) expected, got {type(x).__name__}")
    if x.ndim != 1 or len(x) == 0 or count not in (None, len(x)):
        raise ValueError(f"{name}: {what}, ({count or 'N'},), expected, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: NaN or infinite values at {(~x.isfinite()).nonzero().flatten().tolist()[:5]}")
    return x.detach().double().cpu()


def check_rows(x, name: str = "x") -> None:
    """Refuse what is not a non-empty float batch (N, ...) of finite values, whatever a row is."""
    dims = max(2, x.ndim) if isinstance(x, Tensor) else 2
    check_batch(x, name, dims=dims, shape="rows (N, ...)")


def check_box(name: str, box, x: Tensor, of: str) -> None:
    """Refuse what is neither None nor (low, high) around all values of x, an argument called `of`."""
    if box is None:
        return
    if not isinstance(box, (tuple, list)) or len(box) != 2 or not box[0] < box[1]:
        raise ValueError(f"{name}: None or (low, high) with low < high expected, got {box!r}")
    low, high = x.detach().aminmax()
    if low < box[0] or high > box[1]:
        raise ValueError(f"{of}: values in {name}={box} expected, got {low:.4g} to {high:.4g}")


def check_shape(x, name: str, shape: Iterable[int], what: str) -> None:
    """Refuse what is not a tensor of this shape; `what` says in words what it is, as in "as x"."""
    shape = tuple(shape)
    got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if got != shape:
        raise ValueError(f"{name}: {shape}, {what}, expected, got {got}")


def check_features(least: int = 1, **sets: Tensor) -> None:
    """Refuse sets of features (N, F) of two networks, or of fewer than `least` rows: `check_features(2, a=a, b=b)`."""
    for name, x in sets.items():
        check_batch(x, name, dims=2, shape="features (N, F)")
        if len(x) < least:
            raise ValueError(f"{name}: at least {least} rows expected, got {len(x)}")
    widths = [x.shape[1] for x in sets.values()]
    if len(set(widths)) > 1:
        raise ValueError(f"{', '.join(sets)}: features of one network expected, got {widths} of them")


def check_radii(radii, least: int = 1) -> None:
    """Refuse what is not a float tensor (K,) of at least `least` increasing radii ≥ 0. Raises TypeError, ValueError."""
    if not isinstance(radii, Tensor) or not radii.is_floating_point():
        raise TypeError(f"radii: a float tensor (K,) expected, got {type(radii).__name__}")
    if radii.ndim != 1 or len(radii) < least:
        raise ValueError(f"radii: a vector of at least {least} radii expected, got shape {tuple(radii.shape)}")
    if not radii.isfinite().all() or radii[0] < 0 or (radii.diff() <= 0).any():
        raise ValueError(f"radii: finite, increasing and not negative expected, got {radii.tolist()}")


def check_curve(values, name: str, radii: Tensor) -> None:
    """Refuse what is not a finite float tensor (K,) or (K, N) over K radii. Raises TypeError or ValueError."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"{name}: a float tensor (K,) or (K, N) expected, got {type(values).__name__}")
    if values.shape[:1] != radii.shape:
        raise ValueError(f"{name}: a row for each of the {len(radii)} radii expected, got shape {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"{name}: finite values expected; PSNR is infinite at radius 0: leave that radius out")


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
        rows = first_of(~x.flatten(1).isfinite().all(1))
        raise NotFinite(f"{name}: NaN or infinite values in row(s) {rows}")


def first_of(bad: Tensor) -> str:
    """Name the first five of the rows that are bad (N,), as in "[0, 3] of 8"; nothing where none is."""
    return f"{bad.nonzero().flatten().tolist()[:5]} of {len(bad)}" if bad.any() else ""
