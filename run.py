"""The one entry: `python run.py [task=...] [group=option ...] [key=value ...]`; `--help` lists them all."""

import os
import signal
import sys


def leave(*_: object) -> None:
    """Ctrl-C while modules are imported: an exception in there may be swallowed, or come out as their traceback."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not where it is to be ignored
        signal.signal(signal.SIGINT, leave)
    from pgdlab.cli import main

    sys.exit(main(sys.argv[1:], lambda: signal.signal(signal.SIGINT, usual)))
