"""Mistakes in the comparison page."""

from tests.mistakes import Mutant

EQUAL, STYLES, PROVENANCE = "comparison/equal_kl.py", "comparison/styles.py", "comparison/provenance.py"
T_EQUAL, T_STYLES, T_PROVENANCE = (f"comparison/test_{name}.py" for name in ("equal_kl", "styles", "provenance"))
T_ODD = "comparison/test_odd_files.py"

MUTANTS = [
    Mutant("page: equal KL, a later time", EQUAL, "points[:, 0] >= level", "points[:, 0] > level", T_EQUAL, "first_time"),
    Mutant("page: equal KL beyond a seed's", EQUAL, "common = min(", "common = max(", T_EQUAL, "every_seed"),
    Mutant("page: equal KL without the base", EQUAL, '[(0.0, run.summary["reward_before"]), *rows]', "rows", T_EQUAL, "every_seed"),
    Mutant("page: two methods look alike", STYLES, "[*MARKERS][i % 8]", "[*MARKERS][i % 7]", T_STYLES, "in_grey"),
    Mutant("page: unlike tuning called alike", PROVENANCE, "len(set(known.values())) > 1", "len(set(known.values())) > 2",
           T_PROVENANCE, "declared"),
    Mutant("page: pooled settings hidden", PROVENANCE, "or VARIES in row", "", T_PROVENANCE, "varies"),
    Mutant("page: LaTeX unescaped", "comparison/columns.py", '" & ".join(cell.translate(LATEX) for cell in line)',
           '" & ".join(cell for cell in line)', T_PROVENANCE, "latex"),
    Mutant("page: tags of a run in markdown", "comparison/columns.py", '"<": "&lt;", ', "", T_ODD, "no_tags"),
    Mutant("page: an odd run ends it", "comparison/report.py", "found = sound(found)", "pass", T_ODD, "costs_its_run"),
    Mutant("page: text for a time", "comparison/validity.py", "(*NEEDED, *COUNTS, *MEASURED)", "(*NEEDED, *COUNTS)", T_ODD,
           "costs_its_run"),
    Mutant("page: equal KL of nothing", EQUAL, "if common <= 0:", "if common < 0:", T_ODD, "never_leaves"),
]  # fmt: skip
