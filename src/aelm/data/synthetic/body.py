"""The skeleton: joints of a walking person in space, and their projection to a camera.

The unit of space is the height of an average person: x to the person's left, y up, z in walking direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aelm.data.synthetic.paint import Floats
from aelm.data.synthetic.people import Person

SHOULDER, HIP, ANKLE, NECK, HEAD = 0.783, 0.515, 0.045, 0.845, 0.93
THIGH, SHIN, UPPER_ARM, FOREARM, HAND = 0.24, 0.235, 0.165, 0.14, 0.045


class Pose(NamedTuple):
    """One moment of a walk; angles in radians.

    Attributes:
        phase: Phase in the cycle of two steps.
        stride: Amplitude of the hips; 0 stands still.
        swing: Amplitude of the arms.
        elbow: Forward bend of the forearms.
        lean: Forward lean of the trunk.
        turn: Direction of the head relative to the trunk; positive is the person's left.
    """

    phase: float
    stride: float
    swing: float
    elbow: float
    lean: float
    turn: float


class View(NamedTuple):
    """How a camera sees the person.

    Attributes:
        yaw: 0 faces the camera, pi shows the back; positive turns towards the right edge of the picture.
        pitch: Downward angle of the camera.
        scale: Canvas pixels per body height.
        foot: Canvas position of the point on the ground between the feet.
    """

    yaw: float
    pitch: float
    scale: float
    foot: tuple[float, float]

    def project(self, point: Floats) -> Floats:
        """``(3,)`` in space -> ``(2,)`` canvas pixels."""
        depth = self.depth(point)
        right = point[0] * np.cos(self.yaw) + point[2] * np.sin(self.yaw)
        down = depth * np.sin(self.pitch) - point[1] * np.cos(self.pitch)
        return np.array([self.foot[0] + self.scale * right, self.foot[1] + self.scale * down], np.float32)

    def depth(self, point: Floats) -> float:
        """Depth of a point relative to the body's axis; positive is nearer to the camera."""
        return float(point[2] * np.cos(self.yaw) - point[0] * np.sin(self.yaw))

    def girth(self, side: float, front: float) -> float:
        """Canvas pixels from the axis to the outline of an upright elliptic cylinder."""
        return self.scale * float(np.hypot(side * np.cos(self.yaw), front * np.sin(self.yaw)))


class Limb(NamedTuple):
    """Three joints and the tip: shoulder, elbow, wrist, fingers or hip, knee, ankle, toes; each ``(3,)``."""

    root: Floats
    middle: Floats
    end: Floats
    tip: Floats


class Skeleton(NamedTuple):
    """Joints in space; index 0 is the person's left."""

    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    pelvis: Floats
    neck: Floats
    head: Floats


def _swing(length: float, forward: float, outward: float = 0.0) -> Floats:
    reach = np.cos(outward)
    return length * np.array([np.sin(outward), -reach * np.cos(forward), reach * np.sin(forward)], np.float32)


def _leg(side: int, pose: Pose) -> Limb:
    phase = pose.phase + (0.0 if side > 0 else np.pi)
    forward = pose.stride * np.sin(phase)
    bend = 0.08 + 1.1 * pose.stride * max(np.cos(phase + 0.3), 0.0)  # the leg is bent while it swings forwards
    root = np.array([side * 0.05, HIP, 0.0], np.float32)
    knee = root + _swing(THIGH, forward + 0.04, 0.01 * side)
    ankle = knee + _swing(SHIN, forward + 0.04 - bend)
    tilt = 0.75 * (forward - bend) if forward < bend else 0.2
    toes = ankle + 0.1 * np.array([0.18 * side, -0.22 + np.sin(tilt), np.cos(tilt)], np.float32)
    return Limb(root, knee, ankle, toes)


def _arm(side: int, person: Person, pose: Pose) -> Limb:
    phase = pose.phase + (np.pi if side > 0 else 0.0)  # opposite to the leg of the same side
    forward = pose.swing * np.sin(phase)
    outward = side * (0.15 + 0.12 * max(person.girth - 1.0, 0.0))
    root = np.array([side * 0.095 * person.shoulders, SHOULDER, 0.0], np.float32)
    elbow = root + _swing(UPPER_ARM, forward - 0.08, outward)
    bend = pose.elbow * (1.0 + 0.5 * np.sin(phase))
    wrist = elbow + _swing(FOREARM, forward + bend, -0.02 * side)
    return Limb(root, elbow, wrist, wrist + _swing(HAND, forward + bend + 0.1, -0.02 * side))


def skeleton(person: Person, pose: Pose) -> Skeleton:
    """Joints of a person in a pose, standing on the ground."""
    legs = (_leg(1, pose), _leg(-1, pose))
    lowest = min(min(leg.end[1] - ANKLE, leg.tip[1] - 0.02) for leg in legs)
    drop = np.array([0.0, lowest, 0.0], np.float32)
    tilt = np.array([0.0, 0.0, np.sin(pose.lean)], np.float32)

    def leaning(point: Floats) -> Floats:
        return point - drop + max(float(point[1]) - HIP, 0.0) * tilt

    arms = (_arm(1, person, pose), _arm(-1, person, pose))
    shoulder_shift = (SHOULDER - HIP) * tilt - drop
    size = np.float32(person.height)
    return Skeleton(
        arms=_both(arms, lambda point: (point + shoulder_shift) * size),
        legs=_both(legs, lambda point: (point - drop) * size),
        pelvis=leaning(np.array([0.0, HIP, 0.0], np.float32)) * size,
        neck=leaning(np.array([0.0, NECK, 0.0], np.float32)) * size,
        head=leaning(np.array([0.0, HEAD, 0.012], np.float32)) * size,
    )


def _both(limbs: tuple[Limb, Limb], move: Callable[[Floats], Floats]) -> tuple[Limb, Limb]:
    left, right = (Limb(*(move(joint) for joint in limb)) for limb in limbs)
    return left, right
