"""Ends a process that works with others when the one that started it is gone."""

import os
import threading
import time
from collections.abc import Mapping

STARTED_BY = "AELM_STARTED_BY"  # in the environment of what a command starts: the command's process id


def follow(interval: float = 2.0) -> None:
    """Lets this process end soon after the one that started it, where that is one of several that work together.

    Otherwise a process whose first one is killed before they have met waits half an hour for it, with its memory and
    its GPU. Once they have met, a broken connection tells.

    Args:
        interval: Seconds between two looks.
    """
    starter = starter_of(os.environ)
    os.environ[STARTED_BY] = str(os.getpid())
    if starter is not None:
        threading.Thread(target=_watch, args=(starter, interval), daemon=True, name="aelm-orphan").start()


def starter_of(environment: Mapping[str, str]) -> int | None:
    """The process that this one must not outlive: Lightning's first, or torchrun; None where there is none.

    >>> [starter_of({"LOCAL_RANK": rank, STARTED_BY: "7"}) for rank in ("0", "1")]
    [None, 7]
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return os.getppid()
    if environment.get("LOCAL_RANK", "0") != "0" and STARTED_BY in environment:
        return int(environment[STARTED_BY])
    return None


def _watch(starter: int, interval: float) -> None:
    while os.getppid() == starter:
        time.sleep(interval)
    os.write(2, f"error: process {starter}, which started process {os.getpid()}, is gone: this one ends too\n".encode())
    os._exit(1)  # the main thread may stand in a call that no exception reaches
