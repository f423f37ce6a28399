"""``aelm train ...`` and ``python -m aelm train ...`` are ``python -m aelm.train ...``."""

import os
import runpy
import sys

COMMANDS = ("train", "evaluate", "embed", "export", "explain", "search", "crop", "link", "compare")


def main() -> None:
    """Runs the command given by the first argument."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        usage = f"usage: aelm {{{','.join(COMMANDS)}}} [key=value ...]; aelm train --help lists the keys"
        sys.exit(
            usage if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help") else f"no command {sys.argv[1]}\n{usage}"
        )
    # Like `python -m`, so that modules in the current folder are found.
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # Lightning starts further processes as `python -m <name of __main__>` with the remaining sys.argv.
    runpy.run_module(f"aelm.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
