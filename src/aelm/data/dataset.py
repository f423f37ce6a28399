"""A data set of uint8 pictures, whose augmentation depends only on seed, epoch and indices."""

import hashlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from aelm.data.decoding import BadImageError, Pixels, decode, pack, pack_files, planes, read_bytes
from aelm.types import Batch, InputError, InputTypeError, Picture

SLOTS = 1024  # number of worker processes that one data set can track


class Reading:
    """The picture that each worker process is reading, in shared memory.

    >>> reading = Reading()
    >>> with reading.batch():
    ...     reading.note(7)
    ...     reading.current_picture(os.getpid())
    7
    """

    def __init__(self) -> None:
        self._slots = torch.full((SLOTS, 2), -1, dtype=torch.int64)  # process id, index
        self._slots.untyped_storage().share_memory_()

    def note(self, index: int) -> None:
        """Records that this process reads picture ``index``; -1 for none."""
        worker = get_worker_info()
        slot = self._slots.numpy()[0 if worker is None else worker.id % SLOTS]
        slot[0], slot[1] = os.getpid(), index

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context of one batch; clears this process's entry at the end."""
        try:
            yield
        finally:
            self.note(-1)

    def current_picture(self, process: int) -> int | None:
        """The picture that a process is reading, by process id; None if none or unknown."""
        found = self._slots[(self._slots[:, 0] == process) & (self._slots[:, 1] >= 0), 1]
        return int(found[0]) if len(found) else None

    def dropped(self) -> dict[int, int]:
        """Pictures that dead processes were reading, by process id."""
        alive = {process.pid for process in multiprocessing.active_children()} | {os.getpid()}
        return {int(process): int(index) for process, index in self._slots if index >= 0 and int(process) not in alive}


log = logging.getLogger(__name__)

Item = int | tuple[int, int]


class ImageTransform(Protocol):
    """Interface of a transform."""

    def seed(self, seed: int) -> None:
        """Seeds all random draws."""

    def __call__(self, image: Pixels) -> Pixels:
        """``(h, w, 3)`` to ``(H, W, 3)``, uint8 RGB."""


@runtime_checkable
class OccludingTransform(ImageTransform, Protocol):
    """A transform that may paste from other pictures of the batch, like :class:`aelm.data.Augment`."""

    pasting: object | None
    clean_view: str

    def views(self, image: Pixels, others: Sequence[Pixels]) -> tuple[Pixels, Pixels]:
        """The training picture, and the same without pasting and erasing."""


class Sample(NamedTuple):
    """One picture: the fields of :class:`aelm.types.Batch` without the axis B."""

    image: Tensor
    pid: int
    camid: int
    position: int
    is_query: bool


class ReIDDataset(Dataset[Sample]):
    """Reads, decodes and transforms pictures.

    A plain ``DataLoader`` needs ``collate_fn=aelm.data.collate``, since ``__getitems__`` already builds a batch.

    Items are indexed by ``index``, or by ``(epoch, index)`` as samplers yield it. Each batch seeds the transform once,
    with a hash of seed, epoch and the batch's indices: the result does not depend on the number or start method of
    workers, and persistent workers see the epoch change.

    Args:
        pictures: The pictures; in training ``pid`` is the label 0 .. N-1.
        transform: Makes every picture the same size; called on ``(h, w, 3)`` uint8 RGB.
        num_queries: The first ``num_queries`` pictures are queries.
        cache: ``"ram"`` reads all files now and keeps the encoded bytes in one tensor shared by workers: as memory
            pages if forked, in shared memory if spawned (/dev/shm must be large enough).
        on_bad_image: ``"error"`` raises at an unreadable picture. ``"skip"`` leaves it out of its batch, which may
            become empty, logs it, and lists it in :attr:`unreadable`. ``"replace"``, for training, also logs and lists
            it, but uses another picture instead (always the same one), so batches keep their size.
        seed: Seed of the augmentation.

    Raises:
        BadImageError: If a picture is unreadable, with its file name; with ``"replace"`` only if all are.
        ValueError: If an option is unknown.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        transform: ImageTransform,
        *,
        num_queries: int = 0,
        cache: Literal["none", "ram"] = "none",
        on_bad_image: Literal["error", "skip", "replace"] = "error",
        seed: int = 0,
    ) -> None:
        if cache not in ("none", "ram"):
            raise InputError(f"`cache` must be 'none' or 'ram', got {cache!r}")
        if on_bad_image not in ("error", "skip", "replace"):
            raise InputError(f"`on_bad_image` must be 'error', 'skip' or 'replace', got {on_bad_image!r}")
        if not 0 <= num_queries <= len(pictures):
            raise InputError(f"`num_queries` must lie in 0 .. {len(pictures)} (the pictures), got {num_queries}")
        self.transform = transform
        self.num_queries = num_queries
        self.seed = seed
        self._on_bad_image = on_bad_image
        self._paths = pack(picture.path.encode("utf-8", "surrogateescape") for picture in pictures)
        self._pids = torch.tensor([picture.pid for picture in pictures], dtype=torch.int64)
        self._camids = torch.tensor([picture.camid for picture in pictures], dtype=torch.int64)
        # In shared memory, so all processes see what a worker finds.
        self._bad = torch.zeros(len(pictures), dtype=torch.bool)
        self._bad.untyped_storage().share_memory_()
        self._reading = Reading()
        paths = [picture.path for picture in pictures]
        self._files = pack_files(paths, missing_is_empty=on_bad_image != "error") if cache == "ram" else None

    def __len__(self) -> int:
        return len(self._pids)

    def path(self, index: int) -> str:
        """Path of picture ``index``."""
        return bytes(self._paths.at(index)).decode("utf-8", "surrogateescape")

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The unreadable files found so far by any worker, each once."""
        return tuple(self.path(index) for index in self._bad.nonzero().flatten().tolist())

    def deaths(self) -> str:
        """Message about dead worker processes, their files and what to do; empty if there are none."""
        if not (dropped := self._reading.dropped()):
            return ""
        files = ", ".join(f"process {process} while reading {self.path(index)}" for process, index in dropped.items())
        return (
            f"worker processes died: {files}. If it is the same file each time, it is damaged: remove it. If not, "
            "memory ran out: use fewer `dataset.workers`, or a larger /dev/shm. `dataset.workers=0` loads without them"
        )

    def read(self, index: int) -> Pixels:
        """Picture ``index`` as it is on disk, ``(h, w, 3)`` uint8 RGB."""
        path = self.path(index)
        return decode(read_bytes(path) if self._files is None else self._files.at(index), path)

    def __getitem__(self, item: Item) -> Sample:
        batch = self.__getitems__([item])
        image, *numbers = (field[0] for field in batch[:5])
        pid, camid, position, is_query = (number.item() for number in numbers)
        return Sample(image, int(pid), int(camid), int(position), bool(is_query))

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """A batch with a common seed; unreadable pictures are skipped or replaced."""
        with self._reading.batch():
            return self._batch(items)

    def _batch(self, items: Sequence[Item]) -> Batch:
        epochs, indices = zip(*((0, item) if isinstance(item, int) else item for item in items), strict=True)
        self.transform.seed(batch_seed(self.seed, epochs[0], indices))
        found = filter(None, map(self._in_place_of, indices))
        transform = self.transform if isinstance(self.transform, OccludingTransform) else None
        if transform is not None and transform.pasting is not None:
            seen, clean, kept = self._stacked(self._pasted(transform, list(found)), len(indices))
        elif transform is not None and transform.clean_view != "none":
            seen, clean, kept = self._stacked(((i, *transform.views(image, ())) for i, image in found), len(indices))
        else:
            seen, clean, kept = self._stacked(((i, self.transform(image), None) for i, image in found), len(indices))
        position = torch.tensor(kept, dtype=torch.int64)
        batch = Batch(seen, self._pids[position], self._camids[position], position, position < self.num_queries)
        if transform is None or transform.clean_view == "none" or clean is None:
            return batch
        if transform.clean_view == "target":
            return batch._replace(clean=clean)
        doubled = (torch.cat([field, field]) for field in batch[1:5])
        return Batch(torch.cat([seen, clean]), *doubled)

    def _pasted(
        self, transform: OccludingTransform, found: Sequence[tuple[int, Pixels]]
    ) -> Iterator[tuple[int, Pixels, Pixels]]:
        """Both views of each picture, with pasting from pictures of other people in the batch."""
        pids = self._pids[[index for index, _ in found]].tolist()
        for (index, image), pid in zip(found, pids, strict=True):
            others = [other for (_, other), whose in zip(found, pids, strict=True) if whose != pid]
            yield (index, *transform.views(image, others))

    def _stacked(
        self, pictures: Iterable[tuple[int, Pixels, Pixels | None]], count: int
    ) -> tuple[Tensor, Tensor | None, list[int]]:
        """Views of at most ``count`` pictures as ``(B, 3, H, W)``, and their indices."""
        blocks: list[Pixels] = []
        kept: list[int] = []
        for index, *views in pictures:
            for place, view in enumerate(view for view in views if view is not None):
                if view.dtype != np.uint8 or view.ndim != 3 or view.shape[2] != 3:
                    raise InputTypeError(f"The transform must return (H, W, 3) uint8, got {view.shape} {view.dtype}")
                if not kept:
                    # One block of memory, filled picture by picture: a quarter faster than stacking.
                    blocks.append(np.empty((count, 3, *view.shape[:2]), np.uint8))
                if view.shape[:2] != blocks[place].shape[2:]:
                    sizes = f"{blocks[place].shape[2:]} and {view.shape[:2]}"
                    raise InputError(
                        f"The transform must make all pictures the same size, got heights and widths {sizes}"
                    )
                planes(view, blocks[place][len(kept)])
            kept.append(index)
        tensors = [torch.from_numpy(block[: len(kept)]) for block in blocks or [np.empty((0, 3, 0, 0), np.uint8)]]
        return tensors[0], tensors[1] if len(tensors) > 1 else None, kept

    def _in_place_of(self, index: int) -> tuple[int, Pixels] | None:
        """Picture ``index`` or its replacement, with its index; None if skipped."""
        if (picture := self._image(index)) is not None:
            return index, picture
        if self._on_bad_image == "skip":
            return None
        for other in self._replacements(index):
            if not self._bad[other] and (picture := self._image(other)) is not None:
                return other, picture
        raise BadImageError(f"None of the {len(self)} pictures can be read; one of them is {self.path(index)!r}")

    def _replacements(self, index: int) -> list[int]:
        """Candidates to replace picture ``index``: later ones of its identity, then of other identities.

        The first readable one is always the same, in any process and order of reading.
        """
        behind = torch.arange(index + 1, index + len(self)) % len(self)
        own = self._pids[behind] == self._pids[index]
        return torch.cat([behind[own], behind[~own]]).tolist()

    def _image(self, index: int) -> Pixels | None:
        """Picture ``index``, ``(h, w, 3)``; None if it is unreadable and this is not an error."""
        self._reading.note(index)
        try:
            return self.read(index)
        except BadImageError as error:
            if self._on_bad_image == "error":
                raise BadImageError(f"{error}. Repair or remove it, or set `dataset.on_bad_image=skip`") from error
            if not self._bad[index]:
                self._bad[index] = True
                done = "Skipped" if self._on_bad_image == "skip" else "Replaced by another"
                log.warning("%s: %s", done, printable(str(error)))
            return None


def printable(text: str) -> str:
    r"""``text`` for any screen or log: bytes of a file name that are not UTF-8 are escaped.

    >>> printable("é\udce9")
    'é\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def batch_seed(seed: int, epoch: int, indices: Sequence[int]) -> int:
    """A hash of seed, epoch and indices, 0 .. 2^64 - 1, the same on every machine.

    >>> batch_seed(0, 1, [2, 3]) == batch_seed(0, 1, [2, 3]), batch_seed(0, 1, [2, 3]) == batch_seed(0, 1, [3, 2])
    (True, False)
    """
    numbers = np.array([seed, epoch, *indices], dtype="<i8")
    return int.from_bytes(hashlib.blake2b(numbers.tobytes(), digest_size=8).digest(), "little")


def collate(batch: Batch) -> Batch:
    """The ``collate_fn`` of a loader: :class:`ReIDDataset` already builds batches in ``__getitems__``."""
    return batch


def one_thread(worker: int) -> None:
    """A ``worker_init_fn`` that limits OpenCV to the worker's own thread."""
    cv2.setNumThreads(0)
