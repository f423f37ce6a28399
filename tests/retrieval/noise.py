"""A product that errs, to be put in the place of BLAS."""

import sys

import numpy as np
import torch

import aelm.retrieval  # noqa: F401


def users():
    """The modules that multiply; not by attribute, since functions of the same names stand in front of some."""
    return [sys.modules[f"aelm.retrieval.{name}"] for name in ("blocks", "ranking", "nearest", "score", "product")]


class NoisyProduct:
    """The product of BLAS, each entry of it off by another share of ``size`` at each call."""

    def __init__(self, size, seed=0):
        self.size, self.random, self.calls = size, np.random.default_rng(seed), 0

    def __call__(self, query, gallery, out, *, onto=False):
        self.calls += 1
        honest = (out if onto else 0) + query.double() @ gallery.double().T
        length = query.double().norm(dim=1)[:, None] * gallery.double().norm(dim=1)
        noise = torch.from_numpy(self.random.uniform(-1, 1, tuple(out.shape))) * length * self.size
        return out.copy_(honest + noise)
