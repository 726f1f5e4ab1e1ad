"""Mistakes in what samples are worth and what figures say: molecules, statistics, evaluation, the checks of a run."""

from tests.mistakes import Mutant

BATCH, GEOMETRY, METRICS = "molecules/batch.py", "molecules/geometry.py", "molecules/metrics.py"
T_VALENCE, T_GEOMETRY, T_METRICS = (
    "molecules/test_valence.py",
    "molecules/test_geometry.py",
    "molecules/test_metrics.py",
)

STATISTICS, EVALUATE, COLUMNS = "comparison/statistics.py", "evaluation/evaluate.py", "comparison/columns.py"
T_STATISTICS, T_EVALUATE = "comparison/test_statistics.py", "evaluation/test_evaluate.py"
DENSITIES, T_DENSITIES = "training/checks_densities.py", "training/test_checks_densities.py"

MUTANTS = [
    Mutant("molecules: charges are put in", BATCH, "Chem.SanitizeMol(mol, STEPS, catchErrors=True)",
           "Chem.SanitizeMol(mol, catchErrors=True)", T_VALENCE),
    Mutant("molecules: charges are put in, in space", GEOMETRY, "Chem.SanitizeMol(mol, STEPS, catchErrors=True)",
           "Chem.SanitizeMol(mol, catchErrors=True)", T_VALENCE, "charges_in_space or nor_is_it"),
    Mutant("molecules: ions are molecules", BATCH, "atom.GetFormalCharge() or ", "", T_VALENCE),
    Mutant("molecules: radicals are molecules", BATCH, " or atom.GetNumRadicalElectrons() for", " for", T_VALENCE),
    Mutant("molecules: any element", BATCH, " - set(NUMBER))", " - set(NUMBER) - {'Fe', 'Na'})", T_VALENCE),
    Mutant("molecules: EDM's without charges", METRICS, 'molecule.reason == "valence" and', "False and", T_VALENCE),
    Mutant("molecules: any bond may change", GEOMETRY, "order != was and not bond.GetIsConjugated()", "False", T_GEOMETRY,
           "isolated"),
    Mutant("molecules: of any length", GEOMETRY, "STRETCH = 10", "STRETCH = 100", T_GEOMETRY, "missing or without_its"),
    Mutant("molecules: no margin", GEOMETRY, "STRETCH = 10", "STRETCH = 0", T_GEOMETRY, "delocalised"),
    Mutant("molecules: an endless search", GEOMETRY, "maxIterations=ITERATIONS", "maxIterations=0", T_GEOMETRY, "bounded"),
    Mutant("molecules: a quarter is a clash", GEOMETRY, "CLASH = 0.30", "CLASH = 0.25", T_GEOMETRY, "clash"),
    Mutant("molecules: rings of distinct molecules", METRICS, 'composition(valid, source.symbols) |',
           "composition(list(dict.fromkeys(valid)), source.symbols) |", T_METRICS, "composition"),
    Mutant("molecules: rings over distinct molecules", METRICS, '{"rings": count / len(valid)}',
           '{"rings": count / len(set(valid))}', T_METRICS, "composition"),
    Mutant("compare: hacking in standard errors", COLUMNS, 'unit = "std" if', 'unit = "stderr" if',
           "comparison/test_comparison.py", "hacking"),
    Mutant("compare: power by the formula alone", STATISTICS, ">= POWER)", ">= 0)", T_STATISTICS, "few_seeds or all_signs"),
    Mutant("compare: power of a one-sided test", STATISTICS, "sums = np.abs(drawn", "sums = (drawn", T_STATISTICS, "all_signs"),
    Mutant("compare: power uncorrected", STATISTICS, "comparisons * p <= ALPHA", "p <= ALPHA", T_STATISTICS,
           "few_seeds or all_signs"),
    Mutant("evaluate: the base's network in the ODE", EVALUATE, "tuned_deterministic=ode", "tuned_deterministic=False",
           T_EVALUATE),
    Mutant("evaluate: standard deviation over n", EVALUATE, "values.std() / len(values) ** 0.5", "values.std() / len(values)",
           T_EVALUATE),
    Mutant("evaluate: gain over unknown pairs", EVALUATE, "[after.measured & before.measured]", "[after.measured]", T_EVALUATE),
    Mutant("rewards: a pair that does not fit", "training/build.py", "takes and gives and takes != gives", "False",
           "rewards/test_kinds.py", "does_not_fit or molecules_is"),
    Mutant("rewards: JPEG looks at the width", "rewards/image/jpeg.py", "min(height, width)", "width",
           "rewards/test_image_rewards.py", "sixteen"),
    Mutant("rewards: JPEG of any channels", "rewards/image/jpeg.py", "shape[1] not in (1, 3)", "False",
           "rewards/test_image_rewards.py", "grey_or_rgb"),
    Mutant("rewards: any name in a sum", "rewards/combine.py", "        if odd:", "        if False:", "rewards/test_combine.py",
           "would_break"),
    Mutant("rewards: any name of a part", "rewards/base.py", "if not (isinstance(name, str) and PART.fullmatch(name)):", "if False:", "rewards/test_combine.py",
           "would_break"),
    Mutant("rewards: tautomers are not asked", "rewards/molecule/validity.py", "        if self.tautomers:", "        if False:",
           "rewards/test_molecule_validity.py", "tautomer"),
    Mutant("doctor: any density", DENSITIES, "off < allowed", "True", T_DENSITIES, "log_probability"),
    Mutant("doctor: any KL", DENSITIES, "abs(ratio - 1) < ROUNDED", "True", T_DENSITIES, "kl_that_is"),
    Mutant("doctor: any variance", DENSITIES, "good = abs(variance - 1) <", "good = 0 * abs(variance - 1) <", T_DENSITIES,
           "another_kind"),
    Mutant("doctor: any correlation", DENSITIES, "if abs(value) > bound[name]", "if abs(value) > 9", T_DENSITIES,
           "another_kind or remember"),
    Mutant("doctor: the loss's part is not asked", DENSITIES, "due = penalty.coefficient * own",
           "due = 0.5 * penalty.coefficient * own", T_DENSITIES, "healthy"),
    Mutant("doctor: any price", DENSITIES, "<= ROUNDED * due.abs().max()", "<= 99 * due.abs().max()", T_DENSITIES, "price"),
    Mutant("doctor: rho's price is not asked", DENSITIES, "yield _priced(name, rho, due_rho",
           "yield _priced(name, due_rho, due_rho", T_DENSITIES, "price"),
    Mutant("doctor: rho's dead parameters", DENSITIES, "if gradient is None or not gradient.any()]", "if False]", T_DENSITIES,
           "scale_that"),
    Mutant("doctor: blind to two samples of one noise", "training/checks.py", "torch.pdist(rows).min()",
           "torch.pdist(rows).kthvalue(2).values", T_DENSITIES, "exactly_two"),
]  # fmt: skip
