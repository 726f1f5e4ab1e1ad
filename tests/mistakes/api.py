"""Mistakes in the Python API, in rewards that are functions, and in what a failing reward costs."""

from tests.mistakes import Mutant

GUARD, FUNCTION, BASE, GUEST = "rewards/guard.py", "rewards/function.py", "rewards/base.py", "guest.py"
T_GUARD, T_FUNCTION, T_API = "rewards/test_guard.py", "rewards/test_function.py", "test_api.py"

MUTANTS = [
    Mutant(
        "copies paid where another sample raises",
        GUARD,
        "if self.reward.compares() and len",
        "if False and len",
        T_GUARD,
        "copies",
    ),
    Mutant("rows put back in the wrong order", GUARD, ".argsort()", "", T_GUARD, "copies"),
    Mutant(
        "every row tried though too many failed",
        GUARD,
        "if share > self.max_failed:",
        "if False:",
        T_GUARD,
        "few_calls",
    ),
    Mutant("a reward's own samples", BASE, "return batch.clone() if", "return batch if", T_GUARD, "writes"),
    Mutant("the working directory is left", GUARD, "os.chdir(before)", "pass", T_GUARD, "elsewhere"),
    Mutant(
        "sys.exit in a reward ends the run",
        GUARD,
        "except SystemExit as end",
        "except MemoryError as end",
        T_GUARD,
        "ends",
    ),
    Mutant("complex values are scores", BASE, "if x.is_complex():", "if False:", T_GUARD, "named"),
    Mutant("measured as numbers", BASE, "if measured.dtype != torch.bool:", "if False:", T_GUARD, "named"),
    Mutant(
        "a metric remembers",
        FUNCTION,
        "        metric.reset()\n        metric.update",
        "        metric.update",
        T_FUNCTION,
        "metric",
    ),
    Mutant(
        "invalid molecules handed out", FUNCTION, "if m.valid else None", "if m.mol else None", T_FUNCTION, "molecules"
    ),
    Mutant("no condition is a class", FUNCTION, "None if c == self.none else c", "c", T_FUNCTION, "prompts"),
    Mutant(
        "a function is taken out of a run folder",
        "config/functions.py",
        '"function": None, "recorded"',
        '"recorded"',
        T_API,
        "command_line",
    ),
    Mutant(
        "the experiment's judge of another reward",
        "api.py",
        "cfg = cfg.with_nodes(heldout=None)",
        "pass",
        T_API,
        "folder_holds",
    ),
    Mutant(
        "an edited function goes on",
        "api.py",
        'was["digest"] != now["digest"]',
        "False",
        T_API,
        "two_lambdas",
    ),
    Mutant(
        "closures do not count",
        "config/fingerprint.py",
        "text(function), *made_with(function)",
        "text(function)",
        "config/test_fingerprint.py",
        "numbers",
    ),
    Mutant(
        "docstrings count",
        "config/fingerprint.py",
        "inner.body = inner.body[1:] or",
        "inner.body = inner.body or",
        "config/test_fingerprint.py",
        "beside",
    ),
    Mutant("handlers of signals stay", GUEST, "signal.signal(number, handler)", "pass", T_API, "error"),
    Mutant("torch's settings stay", GUEST, "                put(value)", "                pass", T_API, "error"),
    Mutant(
        "the share of all time so far",
        "training/callbacks.py",
        'last.get("seconds", 0.0) - before.get("seconds", 0.0)',
        'last.get("seconds", 0.0)',
        T_API,
        "share",
    ),
]
