"""A brush that combines canvas, camera and light, so that clothing code only needs positions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aelm.data.synthetic.body import View
from aelm.data.synthetic.paint import Cloth, Floats, Layer, Light, dim, tube, tube_outline

ROUND, CUT_END, CUT = (True, True), (True, False), (False, False)


class Brush(NamedTuple):
    """Canvas, camera view and light for drawing."""

    layer: Layer
    view: View
    light: Light

    def at(self, point: Floats, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Floats:
        """Canvas position of a point in space, shifted by ``x``, ``y`` and ``z`` body heights."""
        return self.view.project(point + np.array([x, y, z], np.float32))

    def tube(
        self,
        start: Floats,
        end: Floats,
        radii: Sequence[float],
        cloth: Cloth,
        part: int,
        ends: tuple[bool, bool] = ROUND,
    ) -> None:
        """Draws a tube between two canvas positions."""
        tube(self.layer, start, end, radii, cloth, self.light, part, ends)

    def shade(self, start: Floats, end: Floats, radii: Sequence[float]) -> None:
        """Draws the soft shadow beside a tube that is drawn next, on the side away from the light."""
        away = np.array([-0.022 * self.light.x, -0.024 * self.light.y], np.float32) * np.float32(self.view.scale)
        for spread in (1.25, 1.0):
            wide = np.asarray(radii, np.float32) * np.float32(spread)
            dim(self.layer, tube_outline(start + away, end + away, wide, True, True), 0.87)
