"""Runs commands in turn, in one process that no socket leaves: python -m tests.sealed LOG < commands as JSON.

Names that are looked up and connections that are tried are refused, and noted in LOG with where they came from, since
libraries swallow the refusal. Only sockets of the machine itself (AF_UNIX) may be used: loading processes hand over
their batches through them. A ``null`` among the commands writes "end" to LOG. Behind it the first refusal ends the
process, as clients try again for a minute.
"""

import json
import os
import socket
import sys
import traceback
from importlib import import_module

from hydra.core.global_hydra import GlobalHydra

REFUSAL = 7  # exit status of a process that the first refusal ended
REFUSED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}


def seal(log):
    """From now on, in this process and those it forks, nothing reaches a network.

    Returns:
        What makes the first refusal the end of the process.
    """
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ends = []

    def refuse(event, arguments):
        if event == "socket.bind" and arguments[1][0] in ("::1", "127.0.0.1"):  # a look whether there is IPv6
            return
        if event in REFUSED or (event in ADDRESSED and arguments[0].family != socket.AF_UNIX):
            where = "".join(traceback.format_stack(limit=12))
            os.write(file, f"{event} {arguments[1:] or arguments}\n{where}\n".encode())
            if ends:
                os._exit(REFUSAL)
            raise ConnectionRefusedError(f"{event} {arguments}: no network here")

    def end():
        sys.stdout.flush()
        os.write(file, b"end\n")
        ends.append(True)

    sys.addaudithook(refuse)
    return end


def run(command, arguments):
    """One command, as typed."""
    GlobalHydra.instance().clear()
    sys.argv = [f"aelm.{command}", *arguments]
    import_module(f"aelm.{command}.__main__").main()


if __name__ == "__main__":
    end = seal(sys.argv[1])
    for typed in json.load(sys.stdin):
        if typed:
            run(*typed)
        else:
            end()
