"""A process that runs one command line of this program after another, so that the imports are paid once.

Started by pgdlab.sweep.process. Reads JSON lines {"argv": [...], "log": path} and answers each run that ended well with a line;
any other end is the end of the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pgdlab.training.divergence import CAME_TO_NOTHING

WARM = ("pgdlab.tasks.train", "pgdlab.tasks.best_of_n", "pgdlab.tasks.steer")  # imported before the first run


def serve(main: Callable[[list[str]], int]) -> int:
    """Runs main on each order until the input ends. Returns an exit code, that of the first run that fails."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # output of a library is no answer
    for module in WARM:
        importlib.import_module(module)
    for line in orders:
        order = json.loads(line)
        redirect(Path(order["log"]))
        sys.argv[1:] = order["argv"]
        os.environ.pop("PGDLAB_RUN", None)
        code = main(order["argv"])
        sys.stdout.flush()
        if code not in (0, CAME_TO_NOTHING):
            return code
        gc.collect()
        print("done", file=answers, flush=True)
    return 0


def redirect(log: Path) -> None:
    """Appends all output to the log, that of libraries too."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
