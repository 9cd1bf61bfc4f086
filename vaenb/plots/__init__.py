"""Plotly figures, one function a figure, in one style; and saving them with a picture and their numbers beside.

It costs no more than plotly and torch: types of other rooms are imported for type checkers only. Figures of the claims
are in `vaenb.plots.ledger`.
"""

from vaenb.plots import tables
from vaenb.plots.charts import bars, binned, histograms, intervals, latent_map, lines, reliability, scatter
from vaenb.plots.curves import dd_curves
from vaenb.plots.pictures import image_slider, images
from vaenb.plots.saving import chrome, save
from vaenb.plots.style import COLORS, TEMPLATE, tile

__all__ = [
    "COLORS",
    "TEMPLATE",
    "bars",
    "binned",
    "chrome",
    "dd_curves",
    "histograms",
    "image_slider",
    "images",
    "intervals",
    "latent_map",
    "lines",
    "reliability",
    "save",
    "scatter",
    "tables",
    "tile",
]
