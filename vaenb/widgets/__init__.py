"""The explorers: sliders in front of results that are already there, so that a slider never waits for a computation.

An explorer is a small class whose attributes are its sliders and outputs, and whose `view` is what a notebook shows.
"""

from vaenb.widgets.behind import CleaningExplorer, PurifierExplorer
from vaenb.widgets.effort import EffortExplorer
from vaenb.widgets.latent import LatentAttackExplorer
from vaenb.widgets.length import LengthExplorer
from vaenb.widgets.ood import ContrastExplorer, DetectorExplorer
from vaenb.widgets.probe import ConsistencyExplorer, TemperatureExplorer
from vaenb.widgets.repair import RepairExplorer
from vaenb.widgets.two_attacks import TwoAttacksExplorer
from vaenb.widgets.units import UnitExplorer

__all__ = [
    "CleaningExplorer",
    "ConsistencyExplorer",
    "ContrastExplorer",
    "DetectorExplorer",
    "EffortExplorer",
    "LatentAttackExplorer",
    "LengthExplorer",
    "PurifierExplorer",
    "RepairExplorer",
    "TemperatureExplorer",
    "TwoAttacksExplorer",
    "UnitExplorer",
]
