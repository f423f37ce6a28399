"""The k best entries of each row, met block by block; among equals the earlier column comes first."""

import numpy as np
import torch
from torch import Tensor

from aelm.retrieval.counting import Values
from aelm.retrieval.labels import IntArray

# Entries from which the first guess at the k-th best is taken.
SAMPLE = 2048


class BestOfRows:
    """Keeps the k best entries of each row so far, best first.

    Args:
        rows: How many rows there are.
        k: How many entries to keep.
        dtype: Type of the entries.

    Attributes:
        value: ``(rows, k)``, ``-inf`` where there was no entry yet.
        index: ``(rows, k)`` int64 column numbers, -1 where there was no entry yet.
    """

    def __init__(self, rows: int, k: int, dtype: np.dtype[np.floating]) -> None:
        self.value: Values = np.full((rows, k), -np.inf, dtype=dtype)
        self.index: IntArray = np.full((rows, k), -1, dtype=np.int64)

    def visit(self, begin: int, end: int, first: int, values: Values | Tensor) -> None:
        """Merges a block in: rows ``begin`` to ``end``, columns from ``first`` on; columns come in ascending order."""
        if isinstance(values, Tensor):
            self._merge_on_device(begin, end, first, values)
            return
        k = self.value.shape[1]
        bar = self.value[begin:end, -1:]
        if values.shape[1] > k and (bar == -np.inf).any():
            # k entries of this block reach the k-th best of its beginning; more than that need not be looked at.
            sample = values[:, : max(SAMPLE, k)]
            guess = np.partition(sample, sample.shape[1] - k, axis=1)[:, -k, None]
            hits = np.flatnonzero(values >= np.maximum(bar, guess))
        else:
            # Equal to the k-th best is not enough: among equals the earlier ones stay.
            hits = np.flatnonzero(values > bar)
        if len(hits):
            self._merge(begin, end, first, values, hits)

    def _merge(self, begin: int, end: int, first: int, values: Values, hits: IntArray) -> None:
        k = self.value.shape[1]
        row, column = np.divmod(hits, values.shape[1])
        count = np.bincount(row, minlength=end - begin)
        place = k + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        value = np.full((end - begin, k + int(count.max())), np.inf, dtype=values.dtype)
        index = np.full(value.shape, -1, dtype=np.int64)
        # Negated, because only an ascending sort can be stable.
        value[:, :k], index[:, :k] = -self.value[begin:end], self.index[begin:end]
        value[row, place], index[row, place] = -values.reshape(-1)[hits], column + first
        order = np.argsort(value, axis=1, kind="stable")[:, :k]
        self.value[begin:end] = -np.take_along_axis(value, order, axis=1)
        self.index[begin:end] = np.take_along_axis(index, order, axis=1)

    def _merge_on_device(self, begin: int, end: int, first: int, values: Tensor) -> None:
        k = self.value.shape[1]
        known = torch.from_numpy(self.value[begin:end]).to(values.device)
        value, place = torch.cat([known, values], dim=1).sort(dim=1, descending=True, stable=True)
        order = place[:, :k].cpu().numpy()
        index = np.take_along_axis(self.index[begin:end], np.minimum(order, k - 1), axis=1)
        self.value[begin:end] = value[:, :k].cpu().numpy()
        self.index[begin:end] = np.where(order < k, index, order - k + first)
