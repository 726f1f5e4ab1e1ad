"""Mistakes in what keeps a run from ending in silence: settings without effect, divergence, the rehearsal, the judge."""

from tests.mistakes import Mutant

TASKS, HELDOUT = "config/tasks.py", "config/heldout.py"
DIVERGENCE, REHEARSAL, REWARDS = "training/divergence.py", "training/rehearsal.py", "training/reward_checks.py"
T_TASKS, T_DIVERGENCE = "config/test_tasks.py", "training/test_divergence.py"
T_REHEARSAL, T_CHECKS = "training/test_rehearsal.py", "training/test_checks.py"

MUTANTS = [
    Mutant(
        "rewards that are all alike are learnt from",
        DIVERGENCE,
        "if spreads and not any(spreads):",
        "if spreads and all(spreads):",
        T_DIVERGENCE,
        "limits",
    ),
    Mutant(
        "a key that begins like one that is read",
        TASKS,
        'f"{key}.".startswith(f"{one}.")',
        "key.startswith(one[:4])",
        T_TASKS,
        "without_effect or takes_is_less",
    ),
    Mutant(
        "keys of a merged mapping are not looked at",
        TASKS,
        'yield from stated(f"{key}.{name}", child)',
        'yield "task"',
        T_TASKS,
        "without_effect",
    ),
    Mutant(
        "a resumed task takes what a new one takes",
        TASKS,
        "known.resumed if resumed else known.new",
        "known.new",
        T_TASKS,
        "takes_is_less",
    ),
    Mutant(
        "a setting that is gone is no change",
        TASKS,
        "for name in {**before, **now}:",
        "for name in now:",
        T_TASKS,
        "differs",
    ),
    Mutant(
        "the old judge stays",
        HELDOUT,
        'judges.get(picks["reward"][0], "null")',
        'judges.get(picks["reward"][0], "heldout_target")',
        T_TASKS,
        "judge_is",
    ),
    Mutant(
        "a potential is an aim", HELDOUT, 'if name != "potential" else ()', "if name else ()", T_TASKS, "another_target"
    ),
    Mutant(
        "only the last iteration's KL counts",
        DIVERGENCE,
        "for row in rows), default=0.0)",
        "for row in rows[-1:]), default=0.0)",
        T_DIVERGENCE,
        "limits",
    ),
    Mutant(
        "the first quarter for the last",
        DIVERGENCE,
        "rows[len(rows) - count :]",
        "rows[:count]",
        T_DIVERGENCE,
        "limits",
    ),
    Mutant(
        "the first iteration is judged",
        DIVERGENCE,
        "int(self.share * len(rows))",
        "max(1, int(self.share * len(rows)))",
        T_DIVERGENCE,
        "limits",
    ),
    Mutant("a small clip is a divergence", DIVERGENCE, "and (far or 0.0) > STILL", "", T_DIVERGENCE, "limits"),
    Mutant(
        "one side of the clip", DIVERGENCE, "for name in CLIPPED)", "for name in CLIPPED[:1])", T_DIVERGENCE, "limits"
    ),
    Mutant("one iteration without a gradient", DIVERGENCE, "not any(norms)", "not all(norms)", T_DIVERGENCE, "limits"),
    Mutant(
        "exit code 0 whatever came of it",
        DIVERGENCE,
        'return 0 if self.status == "finished" else CAME_TO_NOTHING',
        "return 0",
        T_DIVERGENCE,
        "limits",
    ),
    Mutant(
        "a warning hides a failure",
        REHEARSAL,
        'if part.verdict == "failed"] or',
        'if part.verdict == "warning"] or',
        T_REHEARSAL,
        "tried or before_a_warning",
    ),
    Mutant(
        "a report whose files are not there",
        REHEARSAL,
        "if not file.is_file()]",
        "if file.is_dir()]",
        T_REHEARSAL,
        "tried",
    ),
    Mutant(
        "rows in reverse fall on themselves",
        REWARDS,
        "1, len(outcome) // 2 + 1",
        "len(outcome) // 4, 3 * len(outcome) // 4",
        T_CHECKS,
        "wrong_order",
    ),
    Mutant(
        "features of one split are looked at",
        "images/reference.py",
        'for split in ("train", "test"))',
        'for split in ("train",))',
        T_REHEARSAL,
        "says_nothing",
    ),
]
