"""Mistakes in what keeps a run folder from being executed, lost or mixed with another one."""

from tests.mistakes import Mutant

TRUST, T_TRUST = "config/trust.py", "config/test_trust.py"
RUNS, CHECKPOINT, T_INTEGRITY = "config/runs.py", "training/checkpoint.py", "training/test_integrity.py"

MUTANTS = [
    Mutant(
        "a saved configuration is not looked at", "config/compose.py", "    trust.check(today, file)\n", "", T_TRUST,
        "refusal_says",
    ),
    Mutant("what hides in a suite's overrides is not found", TRUST, "is not None:\n            yield from _targets(", "is not None and not stated:\n            yield from _targets(", T_TRUST, "folder_executes and suite"),
    Mutant("a suite picks a file", TRUST, "if name == ALLOW or files:", "if name == ALLOW:", T_TRUST, "suite"),
    Mutant("a function without a name is none", TRUST, "        elif key.endswith(CALLED):\n            require", "        elif key.endswith(CALLED) and \":\" in value:\n            require", T_TRUST, "whatever"),
    Mutant("the run folder is a place of modules", TRUST, "modules and not inside and", "modules and", T_TRUST, "stands_for"),
    Mutant("the environment is looked up for a stranger", TRUST, 'elif "${" in value:', "elif False:", T_TRUST, "looked_up"),
    Mutant(
        "any function of the package may be called", TRUST,
        "return isinstance(made, type) and issubclass(made, (Module, Logger))", "return callable(target)", T_TRUST,
        "executes",
    ),
    Mutant(
        "what a trusted module imports is trusted too", TRUST, "_require_module(path, key, home)", "pass", T_TRUST,
        "not_meant",
    ),
    Mutant(
        "a module is trusted by the beginning of its name", TRUST, 'place.startswith(f"{module}.")',
        "place.startswith(module[:2])", T_TRUST, "files_of_functions",
    ),
    Mutant(
        "a comparison imports", "comparison/folders.py", "        trust.check(today, folder / CONFIG)\n", "", T_TRUST,
        "imports_nothing",
    ),
    Mutant(
        "a trial goes on without the modules that its sweep named", "sweep/records.py",
        ", *trust.words(map(parse_one, self.overrides))", "", T_TRUST, "sweep_named",
    ),
    Mutant(
        "functions are taken on trust", "config/schema.py",
        'made = spec.target if isinstance(spec.target, type) else spec.hints.get("return")',
        'made = spec.target if isinstance(spec.target, type) else kind', T_TRUST, "before_they_are_called",
    ),
    Mutant("a pickle in a checkpoint runs", CHECKPOINT, "weights_only=True)", "weights_only=False)", T_INTEGRITY, "pickle"),
    Mutant(
        "another run's checkpoint is resumed", "training/fit.py", "    require_own(state, Path(cfg.resume))\n", "", T_INTEGRITY,
        "another_run_s and train",
    ),
    Mutant(
        "another run's checkpoint is exported", "evaluation/evaluate.py", "    require_own(state, folder)\n", "", T_INTEGRITY,
        "another_run_s and export",
    ),
    Mutant("half a checkpoint is resumed", "training/fit.py", "    require_whole(state, path)\n", "", T_INTEGRITY, "lacks"),
    Mutant("weights that are NaN are taken", CHECKPOINT, "x.isfinite().all()", "x.isreal().all()", T_INTEGRITY, "lacks and NaN"),
    Mutant("links in a run folder are followed", RUNS, "        require_no_links(place / cfg.resume)\n", "", T_INTEGRITY, "link"),
    Mutant(
        "a link in the way of a file is followed", RUNS, "        part.unlink(missing_ok=True)\n", "", T_INTEGRITY,
        "files_replace_links",
    ),
    Mutant(
        "two processes train in one folder", RUNS, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH", T_INTEGRITY,
        "two_processes",
    ),
    Mutant(
        "a reward leaves the working directory elsewhere", "rewards/guard.py", "            os.chdir(before)", "            pass",
        T_INTEGRITY, "changes_the_directory",
    ),
    Mutant(
        "a finished run that is extended stays finished", "tasks/train.py", "            set_aside(folder)", "            pass",
        T_INTEGRITY, "extension",
    ),
    Mutant(
        "rows are gone while the table is rewritten", "training/table.py", "        write(text.getvalue(), self.file)",
        "        self.file.write_text(text.getvalue())", T_INTEGRITY, "rows_are_kept",
    ),
    Mutant(
        "a figure that is not finite is not named", RUNS, '{"not_finite": names}', '{"not_finite": []}', T_INTEGRITY,
        "null_and_named",
    ),
    Mutant(
        "samples that were not measured are not counted", "evaluation/evaluate.py", "(~(after.measured & before.measured)).sum()",
        "(~(after.measured | before.measured)).sum() * 0", T_INTEGRITY, "counted",
    ),
    Mutant(
        "a stopped run ends with 0", "tasks/train.py", "return 128 + stopped_by(trainer)", "return 0",
        "training/test_resume.py", "signal",
    ),
    Mutant(
        "SIGTERM ends like Ctrl-C", "config/signals.py",
        "self.number, self.code = number, 128 + number", "self.number, self.code = number, 130",
        T_INTEGRITY, "while_it_is_measured",
    ),
    Mutant(
        "a budget forgets what was asked before a resume", "training/budget.py", "left = max(0, self.queries - asked)",
        "left = self.queries - done * plan.samples", T_INTEGRITY, "budget_counts",
    ),
    Mutant(
        "a comparison reads today's batch", "comparison/methods.py", '    if "samples" in run.summary:', "    if False:",
        T_INTEGRITY, "another_batch",
    ),
]  # fmt: skip
