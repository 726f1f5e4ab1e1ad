"""Mistakes in the command line, the user's own options and defaults, and what the sources tell."""

from __future__ import annotations

from tests.mistakes import Mutant

COMMANDS, SIGNATURES = "config/test_commands.py", "config/test_signatures.py"
MUTANTS = [
    Mutant("package: an inherited initialiser opens", "config/targets.py", "or not only_passes_on(found):", "or True:",
           COMMANDS, "without_an_initialiser"),
    Mutant("package: a key given twice", "config/groups.py", "if name in given:", "if False:", COMMANDS, "no_effect"),
    Mutant("package: an empty mapping", "config/compose.py", "if value == {}:", "if False:", COMMANDS, "no_effect"),
    Mutant("package: an optional node of any kind", "config/compose.py", "if len(kinds) != 1:", "if False:",
           COMMANDS, "no_effect"),
    Mutant("package: defaults of a replaced node", "config/defaults.py", "and not any(key.startswith(",
           "and not all(key.startswith(", COMMANDS, "defaults_of_a_folder"),
    Mutant("package: defaults after the command line", "config/defaults.py", "return [*kept, *overrides]",
           "return list(overrides)", COMMANDS, "defaults_of_a_folder"),
    Mutant("package: a quote unescaped", "config/defaults.py", "end[1] * 2", "end[1]", COMMANDS, "same_on_the_command_line"),
    Mutant("package: an option shadows", "config/groups.py", "if twice := found.keys() & new.keys():", "if twice := set[str]():",
           COMMANDS, "folder_of_the_users"),
    Mutant("package: a folder's modules first", "config/trust.py", "sys.path.append(str(here))", "sys.path.insert(0, str(here))",
           COMMANDS, "shadow_nothing"),
    Mutant("package: a field that is no argument", "config/signatures.py", "        return HIDDEN\n", "        return UNKNOWN\n",
           SIGNATURES, "a_source_tells"),
    Mutant("package: fields are not inherited", "config/signatures.py", "for key, p in (base or {}).items()} | fields(found)",
           "for key, p in {}.items()} | fields(found)", SIGNATURES, "a_source_tells"),
    Mutant("package: all is imported first", "config/compose.py", "    refuse(cfg)\n    filled", "    filled",
           SIGNATURES, "without_importing"),
]  # fmt: skip
