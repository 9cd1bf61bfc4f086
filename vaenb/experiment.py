"""An experiment: what a notebook needs around its own few lines, the loop over training runs for one.

experiment = Experiment("03_latent_attacks", settings, train=train, test=test)
models = experiment.train({"KLD": (vae, {...}), "MMD": (vae, {...})}, train, epochs=12)
curves = experiment.curves(latent.attack, models["KLD"], x, radii, {"SSIM": ssim}, target="black")
experiment.record("001.black-target", "KLD", {"output": ...})
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from vaenb import claims, plots, zoo
from vaenb.checkpoints import trained
from vaenb.checks import check_choice, check_counts, check_whole
from vaenb.claims import Gate, tables
from vaenb.contract import LatentModel
from vaenb.data import ImageSet
from vaenb.distributions import seeded
from vaenb.metrics.distortion import dd_curve
from vaenb.metrics.images import LPIPS, WeightsUnavailable, ms_ssim, mse, psnr, ssim
from vaenb.training import Recipe
from vaenb.zoo import FIRST_SEED

RUNS = {"quick": 1, "paper": 5}
_METRICS = {"SSIM": ssim, "MS-SSIM": ms_ssim, "MSE": mse, "PSNR": psnr}


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
        for images in others.values():
            name = images.name if images.split == "train" else f"{images.name} ({images.split})"
            digests[name] = images.digest
        self.run = claims.start_run(notebook, parameters, data=digests, seeds=self.seeds, folder=folder or None)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.run.folder

    def rng(self) -> torch.Generator:
        """A fresh generator, the same at every call: a cell that is run again gives the same numbers."""
        return seeded(self.seeds[0], self.device)

    def images(self, test: ImageSet, count: int, *, quick: int | None = None) -> Tensor:
        """The test images that evidence is measured on, (count, C, H, W) in [0, 1]; in quick only the first `quick`.

        They were drawn once for each data set (images.csv), and of another set they are its first. A count of all
        gives all.
        """
        check_counts(count=count)
        if test.split != "test":
            raise ValueError(f"test: test images expected, got those of the split {test.split!r} of {test.name}")
        if self.profile == "quick" and quick:
            count = min(quick, count)
        if count == len(test):
            return test.float()
        listed = claims.images().get(test.name, range(len(test)))
        if count > len(test) or count > len(listed):
            raise ValueError(f"count: at most {min(len(test), len(listed))} test images of {test.name}, got {count}")
        return test.float(torch.tensor(listed[:count]))

    def train(
        self, builders: Mapping[str, tuple[Callable[..., nn.Module], dict]], data: ImageSet, **recipe
    ) -> dict[str, list[Any]]:
        """Train every model once for each seed, or take it from the store: its training runs by name.

        builders: a builder with its arguments by name; recipe: as for `trained`.
        """
        models: dict[str, list[Any]] = {}
        for name, (build, config) in builders.items():
            runs = []
            for seed in self.seeds:
                model, _ = trained(build, config, data, seed=seed, **recipe)
                runs.append(model)
            models[name] = runs
        return models

    def zoo(self, names: Mapping[str, str], *, progress: bool = True) -> dict[str, list[Any]]:
        """Reference models of the zoo by label: the training runs of {"KLD": "mnist/kld"}.

        In the quick profile it is the zoo's own, which is the run of seed 100, unless the notebook's parameter `train`
        is set. Else each is trained by its recipe for every seed, on the full data, or comes from the store.
        """
        models: dict[str, list[Any]] = {}
        for label, name in names.items():
            if self.profile == "quick" and not self._train and self.seeds == (FIRST_SEED,):
                models[label] = [zoo.load(name, self.device)]
                continue
            entry = zoo.recipe(name)
            lessons, held_out = (images.to(self.device) for images in entry.images())
            recipe: Recipe = {**entry.training, "validation": held_out}
            builders = {label: (entry.build, entry.arguments)}
            models |= self.train(builders, lessons, progress=progress, **recipe)
        return models

    def measure(self, function: Callable[..., Tensor], *models: Sequence[Any]) -> np.ndarray:
        """Call a function of one training run's models for every run, and stack what it gives: (S, ...)."""
        found = []
        for of_run in zip(*models, strict=True):
            found.append(function(*of_run).detach().cpu().double().numpy())
        return np.stack(found)

    def metrics(self, *names: str) -> dict[str, Callable]:
        """Similarities of images by name: SSIM, MS-SSIM, MSE, PSNR, LPIPS.

        LPIPS, with SqueezeNet, is left out where its weights are not at hand, and a line says how to get them.
        """
        found: dict[str, Callable] = {}
        for name in names:
            check_choice("metric", name, (*_METRICS, "LPIPS"))
            if name != "LPIPS":
                found[name] = _METRICS[name]
                continue
            try:
                found[name] = LPIPS("squeeze").to(self.device)
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
        """Attack the codes of x in every training run at all radii: of each metric (S, N, K).

        attack: as those of `attacks.latent`, and `search` its further keywords, such as target and restarts.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
        for model, z in zip(models, self.codes(models, x), strict=True):
            curve = dd_curve(model, z, radii, attack, metrics, chunk=512, generator=self.rng(), **search)
            for name, values in curve.values.items():
                found[name].append(values.T.cpu().numpy())
        return {name: np.stack(runs) for name, runs in found.items()}

    def record(self, claim: str, cell: str, arrays: Mapping[str, np.ndarray | Tensor], **about) -> None:
        """Record the arrays (S, N, ...) of a claim's cell, see `claims.Run.record`."""
        self.run.record(claim, cell, arrays, **about)

    def gate(self, gate: Gate) -> Gate:
        """Store a gate beside the evidence, and give it back to be shown."""
        return self.run.gate(gate)

    def save(self, fig: go.Figure, name: str, *, table: list[dict] | None = None) -> go.Figure:
        """Save a figure in the run's folder, see `plots.save`, and give it back to be shown."""
        return plots.save(fig, self.folder, name, table=table)

    def claims(self, ids: Iterable[str] = ()) -> str:
        """What this run says of the claims that it recorded (or of `ids`), as Markdown; a quick run has no verdict."""
        wanted = list(ids) or list(dict.fromkeys(record.claim for record in self.run.records))
        found = []
        for claim_id in wanted:
            found += claims.judged(claims.find(claim_id), [self.run])
        parts = []
        if any(finding.claim.role == "claim" for finding in found):
            parts.append(tables.documents(found))
        if any(finding.claim.role == "question" for finding in found):
            parts.append(tables.questions(found))
        return "\n\n".join(parts)
