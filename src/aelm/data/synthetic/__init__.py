"""Synthetic pedestrians: rendered people with ground-truth masks, without any download.

``synthetic`` writes a benchmark in Market-1501's layout, ``truth`` reads the masks of its pictures, ``shoot`` draws a
single picture, ``occlude`` covers a part of any picture.
"""

from aelm.data.synthetic.generate import synthetic
from aelm.data.synthetic.occluders import EVALUATION, TRAINING, Kind, occlude
from aelm.data.synthetic.people import BodyPart, Person, person
from aelm.data.synthetic.shot import Shot, shoot
from aelm.data.synthetic.truth import Truth, truth

__all__ = [
    "EVALUATION",
    "TRAINING",
    "BodyPart",
    "Kind",
    "Person",
    "Shot",
    "Truth",
    "occlude",
    "person",
    "shoot",
    "synthetic",
    "truth",
]
