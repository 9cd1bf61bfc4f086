"""What `vaenb audit` does: read model and images, audit, and keep what there is after Ctrl-C."""

from argparse import Namespace
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from vaenb import zoo
from vaenb.audit import loading
from vaenb.audit.budget import Budget, named
from vaenb.audit.report import AuditFailed, AuditInterrupted, Report
from vaenb.audit.run import audit
from vaenb.checks import check_whole

_LIKE_ANY = "sprites"  # the set of other images that needs no file


def audited(options: Namespace) -> tuple[Report, str]:
    """Audit what the command line names: the report, and a title for its page."""
    budget = _budget(options)
    model = loading.model(options.model, options.adapter)
    size = _size_of_zoo(options.model) if options.size is None else options.size
    images = loading.images(options.data, size=size, limit=budget.images)
    x = images.float()
    labels = images.labels if options.labels else None
    if labels is not None and (labels < 0).any():
        without = f"{(labels < 0).sum()} of {len(labels)} images have none (−1)"
        raise ValueError(
            f"--labels: a label for every image in --data expected, {without}; leave them out, or --labels"
        )
    outside = _outside(options, x, budget)
    data = options.reference or images.name
    title = f"{options.model} on {images.name}"
    try:
        report = audit(
            model, x, outside=outside, labels=labels, budget=budget, data=data, seed=options.seed, progress=True
        )
    except (AuditInterrupted, AuditFailed) as stopped:
        report = stopped.report
    report.settings |= {"asked": _asked(options), "made": datetime.now().isoformat(timespec="seconds")}
    if options.model.startswith("zoo:"):
        report.settings["zoo"] = options.model.removeprefix("zoo:")
    return report, title


def _size_of_zoo(name: str) -> int | None:
    if not name.startswith("zoo:"):
        return None
    return zoo.card(name.removeprefix("zoo:"))["recipe"]["size"]


def _asked(options: Namespace) -> dict[str, Any]:
    """What was typed, for report.json."""
    asked = {}
    for name, value in vars(options).items():
        given = not (value is None or value is False or value == [])  # a seed of 0 is
        if given and name not in ("command", "call", "folder"):
            asked[name] = value
    return asked


def _budget(options: Namespace) -> Budget:
    budget = named(options.budget)
    if options.attacked is None:
        return budget
    check_whole("--attacked", options.attacked, 2)
    return replace(budget, attacked=options.attacked, images=max(budget.images, options.attacked))


def _outside(options: Namespace, x: Tensor, budget: Budget) -> dict[str, Tensor]:
    """The sets by name: "name=path", or a known set's name alone; sprites where none is given."""
    sets: dict[str, Tensor] = {}
    for given in options.outside or [_LIKE_ANY]:
        name, equals, path = given.partition("=")
        if not equals:
            name, path = Path(given).stem, given
        if not name or not path or name in sets:
            raise ValueError(f"--outside: name=images, each name once, expected, got {given!r}")
        sets[name] = loading.like(x, path, budget.images)
    return sets
