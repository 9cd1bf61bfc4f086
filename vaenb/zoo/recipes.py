"""The recipes of the zoo's models.

The notebooks' paper runs train from them, too: the zoo's model is the first training run of the evidence.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from vaenb import data, files
from vaenb.data import ImageSet
from vaenb.defences.adversarial_training import adversarial_vae
from vaenb.models import ddgm, denoiser, deterministic_ae, hierarchical_vae, seatbelt, vae
from vaenb.models.classifier import cnn_classifier, mlp_classifier
from vaenb.models.forward_kl import forward_kl_vae
from vaenb.training import Recipe, complete

FIRST_SEED = 100  # of the training runs that count
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "vae": vae,
    "deterministic_ae": deterministic_ae,
    "adversarial_vae": adversarial_vae,
    "forward_kl_vae": forward_kl_vae,
    "hierarchical_vae": hierarchical_vae,
    "seatbelt": seatbelt,
    "cnn_classifier": cnn_classifier,
    "mlp_classifier": mlp_classifier,
    "ddgm": ddgm,
    "denoiser": denoiser,
}  # a card names one: it is data, and no name of it is imported


@dataclass(frozen=True)
class Entry:
    """How a model comes about: a builder of BUILDERS with its arguments, the data, and how it is trained."""

    builder: str
    arguments: dict
    training: Recipe  # without seed and validation images
    statistic: str  # of `quality.STATISTICS`, beside the loss in the gate
    data: str = "mnist"
    size: int = 32  # pixels a side
    held_out: int = 5_000  # the last training images, for gates and tuning

    @property
    def build(self) -> Callable[..., nn.Module]:
        return BUILDERS[self.builder]

    @property
    def description(self) -> dict:
        """All that is decided about the model, as plain values: what its card has, and is compared with."""
        about = {
            "builder": self.builder,
            "arguments": self.arguments,
            "training": complete({**self.training, "seed": FIRST_SEED}),
            "statistic": self.statistic,
            "data": self.data,
            "size": self.size,
            "held out": self.held_out,
        }
        return files.plainly(about)

    def images(self) -> tuple[ImageSet, ImageSet]:
        """The images to train on, and the last `held_out` ones, which no model sees."""
        every = data.load(self.data, split="train", size=self.size)
        cut = len(every) - self.held_out
        return every.take(slice(cut)), every.take(slice(cut, None))


_DIGITS = {"image_shape": (1, 32, 32), "classes": 10}
_DOCUMENT_002A = {
    "image_shape": (1, 32, 32),
    "latent_dim": 64,
    "net": "conv002a",
    "likelihood": "bernoulli",
    "regularizer": "kl",
    "beta": 1.0,
}
_LATENTS_001 = {"mnist": 10, "fashion_mnist": 30, "celeba_10k": 128}  # the document's
_PASSES_001 = {"mnist": 10, "fashion_mnist": 8, "celeba_10k": 32}
_FEWER_001 = {"mnist": 6, "fashion_mnist": 5}  # where there are many models or slow ones: the gates say whether enough
_HELD_OUT_001 = {"mnist": 5_000, "fashion_mnist": 5_000, "celeba_10k": 1_000}  # of 8,998 faces


def _document_001(
    data: str, regularizer: str, beta: float, builder: str = "vae", passes: dict = _PASSES_001, **further: float
) -> Entry:
    """One of document 001's models, in its batches of 64."""
    arguments = {
        "image_shape": (3 if data == "celeba_10k" else 1, 32, 32),
        "latent_dim": _LATENTS_001[data],
        "net": "conv001",
        "likelihood": "gaussian",
        "regularizer": regularizer,
        "beta": beta,
        **further,
    }
    training: Recipe = {"epochs": passes[data], "batch_size": 64}
    return Entry(builder, arguments, training, "latent attack", data=data, held_out=_HELD_OUT_001[data])


def _twin(data: str, regularizer: str) -> Entry:
    return _document_001(data, regularizer, 100.0, builder="deterministic_ae")


def _trained_against(eps: float) -> Entry:
    """Document 001's Algorithm 1, PGD of 10 steps; at 0 the control, as many updates on codes that are not attacked."""
    attack = {"eps": eps, "steps": 10, "updates": 1}
    return _document_001("mnist", "kl", 1.0, builder="adversarial_vae", passes=_FEWER_001, **attack)


def _against_total_correlation(data: str, beta: float) -> Entry:
    return _document_001(data, "tc", beta, passes=_FEWER_001, size=55_000)


def _all_001(data: str) -> dict[str, Entry]:
    """The regularizers, deterministic twins of two; of digits and clothing also rising penalties on the TC."""
    found = {f"{data}/kld": _document_001(data, "kl", 1.0)}
    for name, regularizer in (("mmd", "mmd"), ("swt", "sw")):
        found[f"{data}/{name}"] = _document_001(data, regularizer, 100.0)
        found[f"{data}/{name}-dae"] = _twin(data, regularizer)
    if data in _FEWER_001:
        for beta in (1.0, 5.0, 10.0, 30.0, 50.0):  # at 50 digits keep two latents or three: no shelf's gate passes
            found[f"{data}/tc{beta:g}"] = _against_total_correlation(data, beta)
    return found


_PASSES_002A = {"mnist": 12, "fashion_mnist": 8}  # eight are too few for HMC's gain on digits


def _document_002a(data: str, beta: float = 1.0) -> Entry:
    training: Recipe = {"epochs": _PASSES_002A[data]}
    return Entry("vae", _DOCUMENT_002A | {"beta": beta}, training, "encoder attack", data=data)


def _all_002a(data: str) -> dict[str, Entry]:
    return {f"{data}/vae-beta{beta:g}": _document_002a(data, beta) for beta in (2.0, 5.0, 10.0)}


def _document_000(data: str) -> Entry:
    """The VAE that looks over a classifier's shoulder (net and latents are our choice)."""
    arguments = _DOCUMENT_002A | {"latent_dim": 20, "net": "conv001"}
    return Entry("vae", arguments, {"epochs": 8}, "drawn copies", data=data)


def _hierarchy() -> Entry:
    """Three groups of latents, 16 + 32 + 64 of them."""
    groups = ((1, 16), (4, 2), (8, 1))
    arguments = {"image_shape": (1, 32, 32), "channels": 32, "groups": groups, "likelihood": "bernoulli"}
    return Entry("hierarchical_vae", arguments, {"epochs": _PASSES_002A["mnist"]}, "encoder attack")


_PASSES_004 = {"fashion_mnist": 8, "mnist": 8, "cifar10": 8, "svhn_7k": 40}
_FAMILIES_004 = {
    "gaussian": "gaussian",
    "bernoulli": "bernoulli",
    "continuous": "continuous_bernoulli",
    "learned": "learned_gaussian",
    "logistic": "discretized_logistic",
}
_WIDTHS_004: dict[str, dict] = {
    "nf16": {"width": 0.5},
    "nf64": {"width": 2.0, "passes": 5},  # of 1.5 CPU-minutes
}
_TARGETS_004 = {"wake": 64, "hmc": 4}  # draws, transitions
_PASSES_SHORT = 3  # by the forward KL: some 10 CPU-minutes a pass with wake, 4 with hmc; the gates say whether enough


def _document_004(data: str, likelihood: str = "gaussian", builder: str = "vae", passes: int = 0, **further) -> Entry:
    """A VAE that is asked which data it knows (net, code and passes are our choice)."""
    arguments = {
        "image_shape": (3 if data in ("cifar10", "svhn_7k") else 1, 32, 32),
        "latent_dim": 100,
        "net": "conv004",
        "likelihood": likelihood,
        "regularizer": "kl",
        "beta": 1.0,
        "width": 1.0,
        **further,
    }
    held_out = 500 if data == "svhn_7k" else 5_000  # of 5,136
    training: Recipe = {"epochs": passes or _PASSES_004[data]}
    return Entry(builder, arguments, training, "digits outside", data=data, held_out=held_out)


def _all_004(data: str) -> dict[str, Entry]:
    """Two likelihoods; of the data that the document trains on also three more, small codes, widths, forward KLs."""
    found = {}
    for name in ("gaussian", "bernoulli"):
        found[f"{data}/ood-{name}"] = _document_004(data, name)
    if data in ("mnist", "svhn_7k"):  # the way back
        return found
    for name, likelihood in _FAMILIES_004.items():
        found[f"{data}/ood-{name}"] = _document_004(data, likelihood)
        found[f"{data}/ood-{name}-z10"] = _document_004(data, likelihood, latent_dim=10)
    for name, about in _WIDTHS_004.items():
        found[f"{data}/ood-{name}"] = _document_004(data, **about)
    for name, samples in _TARGETS_004.items():
        forward: dict = {"builder": "forward_kl_vae", "targets": name, "samples": samples}
        found[f"{data}/ood-{name}"] = _document_004(data, passes=_PASSES_SHORT, **forward)
    found[f"{data}/ood-short"] = _document_004(data, passes=_PASSES_SHORT)  # the ELBO's, trained as little
    return found


_DOCUMENT_004 = _all_004("fashion_mnist") | _all_004("cifar10") | _all_004("mnist") | _all_004("svhn_7k")
_SHELF_004 = ("fashion_mnist/ood-gaussian", "fashion_mnist/ood-bernoulli", "fashion_mnist/ood-nf16")


_FIRSTS_002B = {16: (0.2, 0.1, 0.05, 0.025, 0.001), 28: (0.2, 0.1, 0.025)}  # β₁, by pixels a side
_PASSES_002B = {"ddgm": 5, "denoiser": 2, "vae": 5}


def _document_002b(data: str, builder: str, size: int, statistic: str, **further) -> Entry:
    """Document 002b's models, on small images and of half its width."""
    arguments = {"image_shape": (1, size, size), **further}
    training: Recipe = {"epochs": _PASSES_002B[builder], "batch_size": 64}
    if builder != "vae":
        arguments |= {"channels": 32, "blocks": 1}
        training |= {"lr": 2e-3, "ema": 0.9999}
    return Entry(builder, arguments, training, statistic, data=data, size=size)


def _all_002b(data: str, size: int = 16) -> dict[str, Entry]:
    """A DDGM, the DAEs that replace its first step, whom they shield: classifier and VAE."""
    suffix = "" if size == 16 else size
    steps = {"steps": 200, "schedule": "linear", "start": 1e-3}
    found = {f"{data}/ddgm{suffix}": _document_002b(data, "ddgm", size, "denoising", **steps)}
    for beta_1 in _FIRSTS_002B[size]:
        name = f"{data}/dae{suffix}-{beta_1:g}"
        found[name] = _document_002b(data, "denoiser", size, "denoising", beta_1=beta_1)
    digits = {"image_shape": (1, size, size), "classes": 10}
    passes: Recipe = {"epochs": 6 if data == "mnist" else 10}
    found[f"{data}/cnn{size}"] = Entry("cnn_classifier", digits, passes, "accuracy", data=data, size=size)
    latents = {"latent_dim": 10, "net": "mlp", "likelihood": "bernoulli", "regularizer": "kl", "beta": 1.0}
    found[f"{data}/vae{size}"] = _document_002b(data, "vae", size, "drawn copies", **latents)
    return found


_DOCUMENT_002B = _all_002b("mnist") | _all_002b("fashion_mnist") | _all_002b("fashion_mnist", 28)
_SHELF_002B = (
    "fashion_mnist/ddgm",
    "fashion_mnist/dae-0.2",
    "fashion_mnist/dae-0.1",
    "fashion_mnist/dae-0.025",
    "fashion_mnist/cnn16",
    "fashion_mnist/vae16",
)  # what the quick notebook shows: garments made, cleaned and shielded


_BETAS_003 = (1, 2, 4, 10)
_ON_TOP = {"top_free_bits": 0.75}  # our reading: a top that speaks; "plain" is the document's
_KINDS_003: dict[str, dict] = {
    "vae": {"regularizer": "kl"},
    "tcvae": {"regularizer": "tc"},
    "seatbelt": {"layers": 2, **_ON_TOP},
    "seatbelt-plain": {"layers": 2},
    "seatbelt3": {"layers": 3, **_ON_TOP},
    "seatbelt3-plain": {"layers": 3},
    "seatbelt4": {"layers": 4, **_ON_TOP},
    "seatbelt4-plain": {"layers": 4},
    "seatbelt-noskip": {"layers": 2, "skip": False},
    "seatbelt3-noskip": {"layers": 3, "skip": False},
    "seatbelt-topdown": {"layers": 2, "order": "top_down"},
}


def _document_003(data: str, kind: str, beta: float) -> Entry:
    """Document 003's net for images, here of 32 x 32; of sprites a little world."""
    sprites = data == "sprites"
    lessons, held_out = (9_360, 1_000) if sprites else (55_000, 5_000)
    arguments: dict = {"image_shape": (1, 32, 32), "latent_dim": 8 if sprites else 10, "net": "conv003"}
    arguments |= {"likelihood": "bernoulli", "beta": float(beta), **_KINDS_003[kind]}
    if kind != "vae":
        arguments["size"] = lessons
    if "layers" in arguments:
        arguments["free_bits"] = 0.125
    training: Recipe = {"epochs": 22, "batch_size": 32} if sprites else {"epochs": 8}
    if (data, kind, beta) == ("fashion_mnist", "seatbelt", 10):
        training["epochs"] = 16  # at 8 a third more gained .0055 nats a pixel
    if arguments.get("layers") == 4:
        training["clip"] = 1000.0  # norms are about 100; at beta 10 one of 10⁹ ended a training without it
    name = "little_sprites" if sprites else data
    builder = "seatbelt" if "layers" in arguments else "vae"
    return Entry(builder, arguments, training, "drawn copies", data=name, held_out=held_out)


def _all_003(data: str) -> dict[str, Entry]:
    """Every kind at beta 1; those whose beta a claim varies at each, and deeper ones at the largest, too."""
    found = {}
    for kind in _KINDS_003:
        betas: tuple[int, ...] = (1,)
        if kind in ("vae", "tcvae", "seatbelt", "seatbelt-plain"):
            betas = _BETAS_003
        elif not kind.endswith(("noskip", "topdown")):
            betas = (1, 10)
        for beta in betas:
            found[f"{data}/{kind}-beta{beta}"] = _document_003(data, kind, beta)
    return found


_DOCUMENT_003 = _all_003("sprites") | _all_003("fashion_mnist")
_SHELF_003 = (
    "sprites/vae-beta1",
    "sprites/tcvae-beta2",
    "sprites/seatbelt-beta1",
    "sprites/seatbelt-beta2",
    "sprites/seatbelt-beta10",
    "sprites/seatbelt-plain-beta1",
    "sprites/seatbelt-plain-beta10",
)  # what the quick notebook shows: flat models, and both Seatbelts without and with a press


RECIPES: dict[str, Entry] = {
    # document 000's net, and one without convolutions
    "mnist/cnn": Entry("cnn_classifier", _DIGITS, {"epochs": 6}, "accuracy"),
    # document 001's, KLD at β = 1
    "mnist/kld": _document_001("mnist", "kl", 1.0),
    # document 002a's
    "mnist/vae": _document_002a("mnist"),
    # document 001's others
    "mnist/mmd": _document_001("mnist", "mmd", 100.0),
    "mnist/swt": _document_001("mnist", "sw", 100.0),
    "mnist/kld-beta4": _document_001("mnist", "kl", 4.0),
    "mnist/kld-beta10": _document_001("mnist", "kl", 10.0),
    "mnist/mlp": Entry("mlp_classifier", _DIGITS, {"epochs": 10}, "accuracy"),
    "mnist/mmd-dae": _twin("mnist", "mmd"),
    "mnist/swt-dae": _twin("mnist", "sw"),
    "mnist/mmd-lambda10": _document_001("mnist", "mmd", 10.0),
    "mnist/swt-lambda10": _document_001("mnist", "sw", 10.0),
    "mnist/tc10": _against_total_correlation("mnist", 10.0),
    "mnist/tc30": _against_total_correlation("mnist", 30.0),
    "mnist/kld-adversarial": _trained_against(1.0),
    "fashion_mnist/kld": _document_001("fashion_mnist", "kl", 1.0),
    # document 002a's others
    "mnist/vae-beta10": _document_002a("mnist", 10.0),
    "mnist/hierarchy": _hierarchy(),
    "fashion_mnist/vae": _document_002a("fashion_mnist"),
    # document 000's VAE
    "mnist/probe": _document_000("mnist"),
    # document 002b's
    **{name: _DOCUMENT_002B[name] for name in _SHELF_002B},
    # document 003's
    **{name: _DOCUMENT_003[name] for name in _SHELF_003},
    # document 004's
    **{name: _DOCUMENT_004[name] for name in _SHELF_004},
}  # in the order in which they are built

_EVERY: dict[str, Entry] = {
    "mnist/kld-control": _trained_against(0.0),
    "fashion_mnist/probe": _document_000("fashion_mnist"),
    "fashion_mnist/cnn": Entry("cnn_classifier", _DIGITS, {"epochs": 10}, "accuracy", data="fashion_mnist"),
    **_all_001("mnist"),
    **_all_001("fashion_mnist"),
    **_all_001("celeba_10k"),
    **_all_002a("mnist"),
    **_all_002a("fashion_mnist"),
    **_DOCUMENT_002B,
    **_DOCUMENT_003,
    **_DOCUMENT_004,
}
# too many to come with the package: trained where a paper run asks for them
FOR_EVIDENCE = {name: entry for name, entry in _EVERY.items() if name not in RECIPES}


def recipe(name: str) -> Entry:
    """Give a model's recipe. Raises ValueError for an unknown name, with one that is like it."""
    every = RECIPES | FOR_EVIDENCE
    if name not in every:
        raise ValueError(f"name: a model of the zoo expected, got {name!r}{hint(name, list(every))}")
    return every[name]


def hint(name: str, known: list[str]) -> str:
    """Say which known name is like this one, and which there are."""
    close = difflib.get_close_matches(str(name), known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; there are {', '.join(known) or 'none'}"
