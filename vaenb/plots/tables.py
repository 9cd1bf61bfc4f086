"""The numbers of a figure as rows with named columns, made of what is drawn: `plots.save(…, table=rows)`.

`markdown` shows such rows in a notebook.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from vaenb.plots.style import six

if TYPE_CHECKING:
    from vaenb.metrics.distortion import DDCurve
    from vaenb.stats import Estimate

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Average values (K, N) over N images, with the standard error; one image, or values (K,), have none."""
    if values.ndim == 1:
        return values, None
    if values.shape[1] == 1:
        return values[:, 0], None
    return values.mean(1), values.std(1) / values.shape[1] ** 0.5


def series(lines: Mapping[str, tuple[Tensor, Tensor]]) -> list[dict]:
    """Rows of named series of (places (K,), values (K,) or (K, N)) that `lines` draws: means and standard errors.

    (Of shares `lines` draws Wilson's interval instead, which mean and n give.)
    """
    rows = []
    for name, (places, values) in lines.items():
        mean, error = mean_and_error(values)
        for k, place in enumerate(six(places)):
            row = {"name": name, "place": place, "mean": six(mean)[k]}
            if error is not None:
                row |= {"standard error": six(error)[k], "n": values.shape[1]}
            rows.append(row)
    return rows


def curves(attacks: Mapping[str, "DDCurve"], controls: "Mapping[str, DDCurve] | None" = None) -> list[dict]:
    """Rows of every metric of DD-curves over attack radius, as `dd_curves` draws them."""
    named = dict(attacks)
    for name, control in (controls or {}).items():
        named[f"{name}, random"] = control
    rows = []
    for name, curve in named.items():
        for metric, values in curve.values.items():
            for row in series({name: (curve.radii, values)}):
                rows.append({"metric": metric} | row)
    return rows


def estimates(groups: "Mapping[str, Mapping[str, Estimate | str]]") -> list[dict]:
    """Rows of named groups of estimates, as `intervals` draws them; where there is only a reason, the reason."""
    rows = []
    for group, found in groups.items():
        for name, estimate in found.items():
            row = {"group": group, "row": name}
            if isinstance(estimate, str):
                row["missing"] = estimate
            else:
                row |= {name: getattr(estimate, name) for name in ("effect", "low", "high", "n")}
            rows.append(row)
    return rows


def markdown(rows: list[dict]) -> str:
    """Lay rows with the same named columns out as a Markdown table; numbers stand as they are given, no rows are ""."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    for row in rows:
        lines.append([str(row[name]) for name in names])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quantiles(groups: Mapping[str, Tensor]) -> list[dict]:
    """Rows of the quantiles of groups of numbers (n,), whose distributions `histograms` draws."""
    rows = []
    for name, values in groups.items():
        row = {"name": name, "n": len(values)}
        found = np.quantile(values.detach().double().cpu(), _QUANTILES)
        for share, value in zip(_QUANTILES, six(found), strict=True):
            row[f"{share:.0%}"] = value
        rows.append(row)
    return rows
