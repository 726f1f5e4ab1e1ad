"""The console command `pgdlab`, `python -m pgdlab`, and the processes of a sweep's trials."""

import os
import signal
import sys


def leave(*_: object) -> None:
    """Ctrl-C while modules are imported: an exception in there may be swallowed, or come out as their traceback."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def start() -> int:
    """Runs the command line. Returns the exit code."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not where it is to be ignored
        signal.signal(signal.SIGINT, leave)
    from pgdlab.cli import main

    return main(sys.argv[1:], lambda: signal.signal(signal.SIGINT, usual))


if __name__ == "__main__":
    # Python puts the working directory, or this file's folder, first: nothing in there may stand for a module of that name
    package = os.path.dirname(os.path.abspath(__file__))
    if os.path.abspath(sys.path[0]) == package:
        sys.path[0] = os.path.dirname(package)
    elif os.path.abspath(sys.path[0]) == os.getcwd() != os.path.dirname(package):
        del sys.path[0]
    sys.exit(start())
