"""Validation on identities that training never sees."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from aelm.types import Picture


class HeldOut(NamedTuple):
    """Training pictures cut by identity; all sorted as they came.

    Attributes:
        train: What is left for training.
        query: Of each held-out identity and camera one picture, where a match is left in ``gallery``.
        gallery: The other pictures of the held-out identities.
    """

    train: tuple[Picture, ...]
    query: tuple[Picture, ...] = ()
    gallery: tuple[Picture, ...] = ()


def hold_out(pictures: Sequence[Picture], fraction: float, seed: int) -> HeldOut:
    """Hold out training identities, and make queries and a gallery of them.

    Of each held-out identity and camera the middle picture becomes a query if every query of this identity still has a
    match from another camera in the gallery.

    Args:
        pictures: The training pictures of one benchmark.
        fraction: Share of all identities to hold out, in [0, 1); at least two are held out unless it is 0.
        seed: Chooses among the identities seen by two cameras or more. The same seed chooses the same on each machine.

    Raises:
        ValueError: If ``fraction`` is out of range, too few identities are seen by two cameras, or fewer than two
            identities would be left for training.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`fraction` must lie in [0, 1), got {fraction}")
    if fraction == 0:
        return HeldOut(tuple(pictures))
    cameras: defaultdict[int, defaultdict[int, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        cameras[picture.pid][picture.camid].append(picture)
    held = _chosen({pid: len(seen) for pid, seen in cameras.items()}, fraction, seed)
    queries = {picture for pid in held for picture in _queries(cameras[pid])}
    return HeldOut(
        train=tuple(picture for picture in pictures if picture.pid not in held),
        query=tuple(picture for picture in pictures if picture in queries),
        gallery=tuple(picture for picture in pictures if picture.pid in held and picture not in queries),
    )


def _chosen(num_cameras: dict[int, int], fraction: float, seed: int) -> set[int]:
    wanted = max(2, round(fraction * len(num_cameras)))
    eligible = [pid for pid, number in num_cameras.items() if number > 1]
    found = f"{len(num_cameras)} identities, {len(eligible)} of them seen by two cameras or more"
    way_out = "Lower it, or set it to 0: then nothing is held out"
    if wanted > len(eligible):
        raise ValueError(
            f"`val_fraction`={fraction} asks for {wanted} identities to validate on, each seen by two cameras or more, "
            f"found {found}. {way_out}"
        )
    if len(num_cameras) - wanted < 2:
        raise ValueError(
            f"`val_fraction`={fraction} must leave at least two identities to train on, found {found}, "
            f"of which {wanted} would be held out. {way_out}"
        )
    # A hash, because no library promises to draw the same numbers in its next version.
    return set(sorted(eligible, key=lambda pid: hashlib.sha256(f"{seed} {pid}".encode()).digest())[:wanted])


def _queries(cameras: dict[int, list[Picture]]) -> list[Picture]:
    """One query a camera, as long as each query keeps a match from another camera."""
    left = {camid: len(shots) for camid, shots in cameras.items()}
    asked: list[int] = []
    # Cameras with many pictures first: they can spare one.
    for camid in sorted(cameras, key=lambda camid: (-len(cameras[camid]), camid)):
        after = left | {camid: left[camid] - 1}
        if all(any(count for other, count in after.items() if other != query) for query in [*asked, camid]):
            left = after
            asked.append(camid)
    return [cameras[camid][len(cameras[camid]) // 2] for camid in asked]
