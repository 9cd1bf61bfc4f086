"""An experiment: what a notebook needs around its own few lines, the loop over training runs for one.

experiment = Experiment("03_latent_attacks", settings, train=train, test=test)
models = experiment.train({"KLD": (vae, {...}), "MMD": (vae, {...})}, train, epochs=12)
curves = experiment.curves(latent.attack, models["KLD"], x, radii, {"SSIM": ssim}, target="black")
experiment.record("001.black-target", "KLD", {"output": ...})
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from vaenb import claims, plots, zoo
from vaenb.attacks import encoder
from vaenb.checkpoints import gain, lengthened, trained
from vaenb.checks import check_choice, check_counts, check_radii, check_whole
from vaenb.claims import Cell, Claim, Gate, gates
from vaenb.contract import LatentModel, reconstruct
from vaenb.data import ImageSet
from vaenb.distributions import seeded
from vaenb.measurements import kept
from vaenb.metrics.distortion import dd_curve, measure_distortion
from vaenb.metrics.images import LPIPS, WeightsUnavailable, brightness, ms_ssim, mse, psnr, ssim
from vaenb.training import Recipe
from vaenb.zoo import FIRST_SEED, Entry

RUNS = {"quick": 1, "paper": 5}
_METRICS = {"SSIM": ssim, "MS-SSIM": ms_ssim, "MSE": mse, "PSNR": psnr, "brightness": brightness}


class Experiment:
    """One run of a notebook: its training seeds, models, measurements, evidence and figures."""

    def __init__(
        self,
        notebook: str,
        parameters: dict,
        *,
        train: ImageSet,
        folder: Path | str = "",
        **others: ImageSet,
    ) -> None:
        """Open the run's folder, and say what is about to run (run.json).

        parameters: the notebook's (see `claims.parameters`), among them `profile`, `seed` (of the first training run,
        default 100), `num_seeds` (0: one in quick, five in paper) and `train` (no zoo models, even in quick). Every set
        that is used is named, so that its digest stands beside the results. `folder` is where they go, if it is to be
        another than `claims.start_run` takes. Raises ValueError, and OSError naming the folder.
        """
        self.profile = parameters.get("profile", "quick")
        check_choice("profile", self.profile, RUNS)
        first, count = parameters.get("seed", FIRST_SEED), parameters.get("num_seeds", 0)
        check_whole("seed", first, least=0)
        check_whole("num_seeds", count, least=0)
        self.seeds = tuple(range(first, first + (count or RUNS[self.profile])))
        self._train = bool(parameters.get("train", False))
        self.device = train.device
        digests = {train.name: train.digest}
        for argument, images in others.items():
            name = images.name if images.split == "train" else f"{images.name} ({images.split})"
            if name in digests:
                name += f" [{argument}]"
            digests[name] = images.digest
        self.run = claims.start_run(notebook, parameters, data=digests, seeds=self.seeds, folder=folder or None)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.run.folder

    def rng(self, stream: int = 0) -> torch.Generator:
        """A fresh generator, the same at every call: a cell that is run again gives the same numbers.

        Another `stream` has other random numbers, such as those of `again` in `strong_attack`.
        """
        check_whole("stream", stream, least=0)
        return seeded(self.seeds[0] + 10_000 * stream, self.device)

    def images(self, test: ImageSet, count: int) -> Tensor:
        """The test images that evidence is measured on, (count, C, H, W) in [0, 1].

        Those of `chosen`, without their labels.
        """
        return self.chosen(test, count).float()

    def chosen(self, test: ImageSet, count: int) -> ImageSet:
        """The set of the test images that evidence is measured on, with their labels.

        They were drawn once for each data set (images.csv), and of another set they are its first. A count of all
        gives all.
        """
        check_counts(count=count)
        if test.split != "test":
            raise ValueError(f"test: test images expected, got those of the split {test.split!r} of {test.name}")
        if count == len(test):
            return test
        listed = claims.images().get(test.name, range(len(test)))
        if count > len(test) or count > len(listed):
            raise ValueError(f"count: at most {min(len(test), len(listed))} test images of {test.name}, got {count}")
        if max(listed) >= len(test):
            raise ValueError(f"test: all of {test.name} expected, as its images are listed; got {len(test)} of them")
        return test.take(torch.tensor(listed[:count]))

    def train(
        self,
        builders: Mapping[str, tuple[Callable[..., nn.Module], dict]],
        data: ImageSet,
        *,
        runs: int | None = None,
        **recipe,
    ) -> dict[str, list[Any]]:
        """Train every model once for each seed, or take it from the store: its training runs by name.

        builders: a builder with its arguments by name; runs: of the first so many seeds (None: all); recipe: as for
        `trained`.
        """
        models: dict[str, list[Any]] = {}
        for name, (build, config) in builders.items():
            models[name] = []
            for seed in self.seeds[:runs]:
                model, _ = trained(build, config, data, seed=seed, **recipe)
                models[name].append(model)
        return models

    def zoo(self, names: Mapping[str, str], *, runs: int | None = None) -> dict[str, list[Any]]:
        """Reference models of the zoo by label: the training runs of {"KLD": "mnist/kld"}.

        In the quick profile it is the zoo's own, which is the run of seed 100, unless the notebook's parameter `train`
        is set. Else each is trained by its recipe for every seed, on the full data, or comes from the store. `runs` are
        the first so many seeds, for probes.
        """
        models: dict[str, list[Any]] = {}
        for label, name in names.items():
            if self.profile == "quick" and not self._train and self.seeds == (FIRST_SEED,):
                models[label] = [zoo.load(name, self.device)]
                continue
            entry, lessons, recipe = self._lessons(name)
            builders = {label: (entry.build, entry.arguments)}
            models |= self.train(builders, lessons, runs=runs, **recipe)
        return models

    def _lessons(self, name: str) -> tuple[Entry, ImageSet, Recipe]:
        """A model of the zoo's: its entry, the images to train on, and its recipe with those that are held out."""
        entry = zoo.recipe(name)
        lessons, held_out = (images.to(self.device) for images in entry.images())
        return entry, lessons, {**entry.training, "validation": held_out}

    def measure(self, function: Callable[..., Tensor], *models: Sequence[Any]) -> np.ndarray:
        """Call a function of one training run's models for every run, and stack what it gives: (S, ...)."""
        found = []
        for of_run in zip(*models, strict=True):
            found.append(function(*of_run).detach().cpu().double().numpy())
        return np.stack(found)

    def measure_all(
        self,
        function: Callable[..., dict[str, Tensor]],
        models: Mapping[str, Sequence[Any]] | Sequence[Any],
        *given: Any,
    ) -> dict[str, np.ndarray]:
        """Call function(*models of a training run, *given), numbers by name, for every run and stack: (S, ...).

        models: a model's training runs, or several models' by label.
        """
        several = models.values() if isinstance(models, Mapping) else [models]
        found = _stacked(function(*of_run, *given) for of_run in zip(*several, strict=True))
        return {name: runs.astype(np.float64) for name, runs in found.items()}

    def of_runs(
        self,
        function: Callable[..., dict[str, Tensor]],
        models: Mapping[str, Sequence[Any]] | Sequence[Any],
        *given: Any,
        **about: Any,
    ) -> dict[str, np.ndarray]:
        """As `measure_all`, but each training run's numbers are kept, see `once`, which has `about`."""
        return self.measure_all(partial(self.once, function, **about), models, *given)

    def once(self, function: Callable[..., dict[str, Tensor]], *given: Any, **about: Any) -> dict[str, Tensor]:
        """Call function(*given), tensors by name; what a paper run found before is read and not done again.

        It hangs on the first seed, on what is given, on the function (of a notebook's its cell's source), and on
        `about`: functions that it calls from other cells, and settings. See `measurements.kept`.
        """
        found = self._kept(partial(function, *given), function=function, given=given, **about)
        return {name: values.to(self.device) for name, values in found.items()}

    def _kept(self, compute: Callable[[], dict[str, Tensor]], **about: Any) -> dict[str, Tensor]:
        """Call `compute`; in the paper profile what was measured before is not done again."""
        return kept(compute, seed=self.seeds[0], **about) if self.profile == "paper" else compute()

    def metrics(self, *names: str) -> dict[str, Callable]:
        """Measures of two images by name: SSIM, MS-SSIM, MSE, PSNR, LPIPS, and the second one's brightness.

        LPIPS, with SqueezeNet, is left out where its weights are not at hand, and a line says how to get them.
        """
        found: dict[str, Callable] = {}
        for name in names:
            check_choice("metric", name, (*_METRICS, "LPIPS"))
            if name != "LPIPS":
                found[name] = _METRICS[name]
                continue
            try:
                found[name] = LPIPS().to(self.device)
            except WeightsUnavailable as reason:
                print(f"LPIPS is left out: {reason}")
        return found

    def codes(self, models: Sequence[LatentModel], x: Tensor) -> list[Tensor]:
        """The posterior means of images x (N, C, H, W), one (N, D) for each training run."""
        with torch.no_grad():
            return [model.posterior(x).mean for model in models]

    def curves(
        self,
        attack: Callable,
        models: Sequence[LatentModel],
        x: Tensor,
        radii: Tensor,
        metrics: Mapping[str, Callable],
        **search,
    ) -> dict[str, np.ndarray]:
        """Attack the codes of x in every training run at all radii, 0 and up: of each metric (S, N, K).

        attack: as those of `attacks.latent`, and `search` its further keywords, such as target and restarts. Beside
        the metrics there are the attacked "codes" (S, N, K, D), the first of them not attacked.
        """

        def measured(model: LatentModel) -> dict[str, Tensor]:
            (z,) = self.codes([model], x)
            curve = dd_curve(model, z, radii[1:], attack, metrics, chunk=512, generator=self.rng(), **search)
            found = {"codes": torch.cat([z[None], curve.adversarial]).transpose(0, 1)}
            at_zero = measure_distortion(model.decode, z, z, metrics, chunk=512)
            for name, values in curve.values.items():
                found[name] = torch.cat([at_zero[name], values]).T
            return found

        if radii[0] != 0:
            raise ValueError(f"radii: radii from 0 expected, got {radii[0]:g} first")
        about = {"attack": attack, "x": x, "radii": radii, "metrics": metrics, "search": search}
        return _stacked(self._kept(partial(measured, model), model=model, **about) for model in models)

    def image_curves(
        self, models: Sequence[LatentModel], x: Tensor, deltas: Tensor, metrics: Mapping[str, Callable], **search
    ) -> dict[str, np.ndarray]:
        """Attack images x (`encoder.attack`) in every training run within each of `deltas`, L∞, and reconstruct.

        Of each metric (S, N, K): by its name, such as "SSIM", of the attacked image's reconstruction with the image
        itself, and as "own SSIM" with the reconstruction of the image.
        """
        check_radii(deltas)

        def measured(model: LatentModel) -> dict[str, Tensor]:
            clean = reconstruct(model, x)
            found: dict[str, list[Tensor]] = {}
            for delta in deltas.tolist():
                attacked = x
                if delta > 0:
                    attacked = encoder.attack(model, x, eps=delta, generator=self.rng(), **search).adversarial
                copy = reconstruct(model, attacked)
                for name, metric in metrics.items():
                    found.setdefault(name, []).append(metric(x, copy))
                    found.setdefault(f"own {name}", []).append(metric(clean, copy))
            return {name: torch.stack(values, dim=1) for name, values in found.items()}

        about = {"attack": encoder.attack, "x": x, "radii": deltas, "metrics": metrics, "search": search}
        return _stacked(self._kept(partial(measured, model), model=model, **about) for model in models)

    def record(self, claim: str, cell: str, arrays: Mapping[str, np.ndarray | Tensor], **about) -> None:
        """Record the arrays (S, N, ...) of a claim's cell, see `claims.Run.record`."""
        self.run.record(claim, cell, arrays, **about)

    def record_all(
        self, ids: Iterable[str], arrays: Mapping[str, np.ndarray], *, radius: float | None = None
    ) -> list[str]:
        """Record every primary cell of these claims whose arrays (by the names of cells.csv) are there.

        Cells of other data than are trained on are left out, so that a small set records nothing. Of cells that differ
        in the radius alone, `radius` says which are meant. Gives their names.
        """
        recorded = []
        for claim, cell in self._cells(ids, arrays, radius=radius):
            own = {name: arrays[name] for name in cell.arrays}
            self.record(claim.id, cell.name, own, data=self._part(cell))
            recorded.append(f"{claim.id}: {cell.name}")
        return recorded

    def longer(self, names: Mapping[str, str]) -> tuple[dict[str, list[Any]], float]:
        """Models as `zoo` gives, of the first seed, trained for 4/3 of their passes; and the gain in nats a pixel.

        The gain is the largest fall of the loss on the recipes' validation images.
        """
        models: dict[str, list[Any]] = {}
        gains = []
        for label, name in names.items():
            entry, lessons, recipe = self._lessons(name)
            recipe["seed"] = self.seeds[0]
            (_, before), (model, after) = lengthened(entry.build, entry.arguments, lessons, **recipe)
            models[label] = [model]
            gains.append(gain(model, before, after, lessons))
        return models, max(gains)

    def converged(
        self,
        ids: Iterable[str],
        arrays: Mapping[str, np.ndarray],
        longer: Mapping[str, np.ndarray],
        gain: float,
        *,
        radius: float | None = None,
    ) -> list[Gate]:
        """Store the gates *converged* of these claims: of their cells' arrays, and those of `longer` models, see there.

        There is one for each unit of measure, and none where a statistic is not defined on `arrays`.
        """
        found = []
        for claim, cells in self._measures(ids, arrays, longer, radius=radius):
            found.append(gates.converged(claim, cells, arrays, longer, gain))
        return [self.gate(gate) for gate in found if gate]

    def strong_attack(
        self,
        ids: Iterable[str],
        arrays: Mapping[str, np.ndarray],
        stronger: Mapping[str, np.ndarray],
        again: Mapping[str, np.ndarray] | None = None,
        *,
        radius: float | None = None,
    ) -> list[Gate]:
        """Store the gates *strong attack* of these claims, as `converged` does.

        `stronger` are arrays of doubled steps and restarts, of the first runs and images of `arrays`, and `again` those
        of other random numbers, where chance has a part in them.
        """
        weaker = {}
        for name in arrays.keys() & stronger.keys():
            runs, images = stronger[name].shape[:2]
            weaker[name] = arrays[name][:runs, :images]
        found = []
        for claim, cells in self._measures(ids, weaker, stronger, radius=radius):
            found.append(gates.strong_attack(claim, cells, weaker, stronger, again))
        return [self.gate(gate) for gate in found if gate]

    def _measures(
        self, ids: Iterable[str], *arrays: Mapping[str, np.ndarray], radius: float | None
    ) -> Iterator[tuple[Claim, list[Cell]]]:
        """The claims, each with its cells of one unit of measure."""
        groups: dict[tuple[str, str], list[Cell]] = {}
        for claim, cell in self._cells(ids, *arrays, radius=radius):
            groups.setdefault((claim.id, cell.measure), []).append(cell)
        for (claim_id, _), cells in groups.items():
            yield claims.find(claim_id), cells

    def _cells(
        self, ids: Iterable[str], *arrays: Mapping[str, np.ndarray], radius: float | None
    ) -> Iterator[tuple[Claim, Cell]]:
        """The primary cells of these claims on the data trained on (and others), whose arrays are in each."""
        for claim_id in ids:
            claim = claims.find(claim_id)
            for cell in claim.cells:
                there = all(set(cell.arrays) <= set(found) for found in arrays)
                meant = radius is None or cell.radii == (radius,)
                if there and meant and self._part(cell):
                    yield claim, cell

    def _part(self, cell: Cell) -> str | None:
        """The part of a cell's data that models trained on this run's data decide: mnist, or mnist vs fashion_mnist.

        "fashion_mnist to mnist" is measured on mnist, of models of fashion_mnist.
        """
        for part in cell.parts:
            if re.split(" vs | to ", part)[0] == self.run.data:
                return part
        return None

    def gate(self, gate: Gate) -> Gate:
        """Store a gate beside the evidence, and give it back to be shown."""
        return self.run.gate(gate)

    def save(self, fig: go.Figure, name: str, *, table: list[dict] | None = None) -> go.Figure:
        """Save a figure in the run's folder, see `plots.save`, and give it back to be shown."""
        return plots.save(fig, self.folder, name, table=table)


def _stacked(runs: Iterable[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """The numbers of every training run by name, stacked: (S, ...)."""
    found: dict[str, list[np.ndarray]] = {}
    for arrays in runs:
        for name, values in arrays.items():
            values = values.detach().cpu()
            if values.dtype == torch.bfloat16:  # numpy has none
                values = values.float()
            found.setdefault(name, []).append(values.numpy())
    return {name: np.stack(several) for name, several in found.items()}
