"""The pictures of a run: curves, ranked rows, heat maps and sheets of pictures. Plain data in, one PNG out.

Everything draws through matplotlib's object interface, never through pyplot's global state, so that sweeps and threads
do not disturb each other; every file is written whole or not at all, and the same data gives the same bytes.
"""

from aelm.figures.curves import cmc_curve
from aelm.figures.heatmaps import HeatmapRow, Panel, heatmap_rows
from aelm.figures.ranking import RankedPicture, RankedRow, ranked_rows
from aelm.figures.sheet import contact_sheet
from aelm.figures.training import read_history, training_curves

__all__ = [
    "HeatmapRow",
    "Panel",
    "RankedPicture",
    "RankedRow",
    "cmc_curve",
    "contact_sheet",
    "heatmap_rows",
    "ranked_rows",
    "read_history",
    "training_curves",
]
