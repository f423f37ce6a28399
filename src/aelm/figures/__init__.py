"""Figures of a run: curves, ranked rows, heat maps and contact sheets. Each function takes plain data and writes a PNG.

All use matplotlib's object interface instead of pyplot's global state, so sweeps and threads do not disturb each other.
Files are written atomically, and the same data gives the same bytes.
"""

from aelm.figures.curves import cmc_curve, read_history, training_curves
from aelm.figures.heatmaps import HeatmapRow, Panel, heatmap_rows
from aelm.figures.ranking import RankedPicture, RankedRow, contact_sheet, ranked_rows

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
