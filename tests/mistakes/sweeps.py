"""Mistakes in sweeps and loggers."""

from tests.mistakes import Mutant

PARAMETERS, FILE, TRIAL, DRIVER = "sweep/parameters.py", "sweep/file.py", "sweep/trial.py", "sweep/driver.py"
RECORDS, LOGGERS, WANDB = "sweep/records.py", "training/loggers.py", "training/weights_and_biases.py"
T_PARAMETERS, T_SWEEP, T_LOGGERS = "sweep/test_parameters.py", "sweep/test_sweep.py", "training/test_loggers.py"

MUTANTS = [
    Mutant(
        "sweep: multiples that are no whole numbers",
        PARAMETERS,
        "return round(value / q) * q",
        "return float(round(value / q) * q)",
        T_PARAMETERS,
        "whole_step",
    ),
    Mutant(
        "sweep: probabilities that are not used", PARAMETERS, 'p.get("probabilities") or', "", T_PARAMETERS, "quantile"
    ),
    Mutant(
        "sweep: a normal of variance sigma",
        PARAMETERS,
        'NormalDist(p["mu"], p["sigma"])',
        'NormalDist(p["mu"], p["sigma"] ** 0.5)',
        T_PARAMETERS,
        "quantile",
    ),
    Mutant("sweep: a range upside down", PARAMETERS, "high <= low:", "high == low:", T_SWEEP, "cannot_be_run"),
    Mutant(
        "sweep: ends that are not checked",
        PARAMETERS,
        "ENDS = (0.0, 0.5, 1.0)",
        "ENDS = (0.5, 0.5, 0.5)",
        T_PARAMETERS,
        "both_ends",
    ),
    Mutant(
        "sweep: keys of metric unchecked",
        FILE,
        'require_keys(given, METRIC, "metric.", "metric")',
        "None",
        T_SWEEP,
        "cannot_be_run",
    ),
    Mutant("sweep: the later of two keys wins", FILE, "keys.count(key) > 1", "keys.count(key) > 2", T_SWEEP, "twice"),
    Mutant("sweep: the macro for hydra ignored", FILE, 'f"{self.prefix}{name}=', 'f"{name}=', T_SWEEP, "macros"),
    Mutant(
        "sweep: a run that diverged is run again",
        RECORDS,
        'OVER = ("finished", *NOTHING, EARLY)',
        'OVER = ("finished", EARLY)',
        T_SWEEP,
        "diverged",
    ),
    Mutant(
        "sweep: two drivers",
        DRIVER,
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        T_SWEEP,
        "one_driver",
    ),
    Mutant(
        "wandb: a key that is not known",
        WANDB,
        'if viewer.get("viewer") else',
        "if viewer else",
        T_LOGGERS,
        "without_an_api",
    ),
    Mutant("wandb: no group", WANDB, '(sweep if sweep != "." else None)', "None", T_LOGGERS, "run_of_a_sweep"),
    Mutant(
        "loggers: figures of the top alone",
        LOGGERS,
        'found |= figures(value, f"{prefix}{name}/")',
        "pass",
        T_LOGGERS,
        "figures_of",
    ),
]
