"""Mistakes in what a run with many prompts shows, counts and keeps."""

from tests.mistakes import Mutant

SHEETS, DRAWING, T_SHEETS = "training/sheets.py", "images/drawing.py", "training/test_sheets.py"
REWARDS, TABLE, T_TABLE = "trainers/prompts.py", "training/prompt_table.py", "training/test_prompt_table.py"
ENCODED, MAPPED, T_ENCODED = "diffusion/prompts.py", "diffusion/mapped.py", "diffusion/test_pipelines.py"

MUTANTS = [
    Mutant("the noise of training", SHEETS, "Noise(world.noise.seed, Stream.EVALUATE).of(0,",
           "Noise(world.noise.seed).of(0,", T_SHEETS, "noise_of_evaluation"),
    Mutant("sheets of the base alone", SHEETS, "policy.eval(),",
           "world.reference,", T_SHEETS, "sheets_of_a_run"),
    Mutant("the first prompts of a long list", SHEETS, "conditions[i * count // SHOWN]", "conditions[i]", T_SHEETS,
           "long_list"),
    Mutant("a sheet every iteration", SHEETS, "% self.every == 0", ">= 0", T_SHEETS, "sheets_of_a_run"),
    Mutant("the base's sheet again", SHEETS, "if trainer.is_global_zero and not int(pl_module.iterations):",
           "if trainer.is_global_zero:", T_SHEETS, "goes_on"),
    Mutant("a sheet without a caption", "training/weights_and_biases.py", ".numpy(), caption=text)", ".numpy())", T_SHEETS,
           "wandb"),
    Mutant("prompts are formulas", DRAWING, 'va="top", fontsize=6, parse_math=False)\n    path',
           'va="top", fontsize=6)\n    path', T_SHEETS, "whatever_they_say"),
    Mutant("a failed sheet ends the run", SHEETS, "except Exception as error:", "except KeyError as error:", T_SHEETS, "fails"),
    Mutant("failed samples count as 0", REWARDS, "new_zeros(len(number)), measured.to(reward.dtype)",
           "new_zeros(len(number)), torch.ones_like(reward)", T_TABLE, "by_hand"),
    Mutant("a prompt's spread without n - 1", REWARDS, "/ (count - 1)", "/ count", T_TABLE, "by_hand"),
    Mutant("rows of this process alone", REWARDS, "gather, rewards = world.processes.gather, collected.rewards",
           "gather, rewards = torch.clone, collected.rewards", "training/test_processes.py", "makes_one_run"),
    Mutant("rows after the checkpoint stay", TABLE, "int(row[0]) <= done", "int(row[0]) <= 10**9", T_TABLE, "resumed"),
    Mutant("a resumed run begins its table anew", TABLE, "lines([COLUMNS, *kept(self.file, self.done)])", "lines([COLUMNS])",
           T_TABLE, "resumed"),
    Mutant("one prompt has a table", REWARDS, "train_conditions)) < 2:", "train_conditions)) < 1:", T_TABLE, "has_none"),
    Mutant("a prompt of several lines", TABLE, '" ".join(texts[number].split())', "texts[number]", T_TABLE, "damaged"),
    Mutant("encodings of many prompts in memory", ENCODED, "if held > IN_MEMORY:", "if False:", T_ENCODED, "in_a_file and SD3"),
    Mutant("rows put aside twice", ENCODED, "first, held = start + tape.rows, 0", "first, held = 1, 0", T_ENCODED,
           "in_a_file and SD3"),
    Mutant("a file that stays", MAPPED, "NamedTemporaryFile(prefix", "NamedTemporaryFile(delete=False, prefix", T_ENCODED,
           "in_a_file and SD3"),
    Mutant("shorter rows as they are", ENCODED, "whole = (filled(row, longest) for row in rows)", "whole = iter(rows)", T_ENCODED,
           "left_out"),
    Mutant("tensors where they cannot begin", MAPPED, "mapped(tensors, ALIGNED)", "mapped([x for x in tensors], 3)", T_ENCODED,
           "in_a_file"),
    Mutant("a table of any size", "diffusion/conditioning.py", "if size > LARGEST:", "if False:", "diffusion/test_policy.py",
           "thousands"),
    Mutant("one for all counts as a table", "diffusion/initial.py",
           "        if per_condition:\n            again", "        if True:\n            again",
           "diffusion/test_policy.py", "thousands and initial"),
]  # fmt: skip
