"""Mistakes in HPSv3, and in what a new user of diffusers meets."""

from tests.mistakes import Mutant

JUDGE, T_JUDGE = "rewards/text/hps_v3.py", "rewards/test_text_hps_v3.py"
NETWORKS, FILES, DRAWING = "rewards/text/networks.py", "diffusion/pipeline_files.py", "images/drawing.py"
FIRST = "first_number"

MUTANTS = [
    Mutant("hps_v3: the spread is the score", JUDGE, "number[:, 0].to", "number[:, 1].to", T_JUDGE, FIRST),
    Mutant(
        "hps_v3: positions are Qwen's own, by rows and columns",
        JUDGE,
        '"position_ids": places, "pixel_values"',
        '"mm_token_type_ids": (ids == self.words.convert_tokens_to_ids(IMAGE)).int(), "pixel_values"',
        T_JUDGE,
        FIRST,
    ),
    Mutant("hps_v3: the last token is read", JUDGE, ".int().argmax(1)", ".int().argmax(1) * 0 - 1", T_JUDGE, FIRST),
    Mutant(
        "hps_v3: no ReLU before the last layer", JUDGE, "layers[1] = layers[4] =", "layers[1] =", T_JUDGE, FIRST
    ),
    Mutant("hps_v3: patches row by row", JUDGE, "permute(0, 3, 6, 4, 7,", "permute(0, 3, 4, 6, 7,", T_JUDGE, "cuts_them"),
    Mutant("hps_v3: sides are rounded up", JUDGE, "max(1, int(side / factor", "max(1, round(side / factor", T_JUDGE, "cuts_them"),
    Mutant("hps_v3: the head is rounded", JUDGE, 'dtype="float32")\n', "dtype=dtype)\n", T_JUDGE, "precision"),
    Mutant("hps_v3: missing weights are random", NETWORKS, '"missing_keys", ', "", T_JUDGE, "another_layout"),
    Mutant("hps_v3: the vocabulary is not compared", JUDGE, "if rows != len(self.words):", "if False:", T_JUDGE, "sentence"),
    Mutant("hps_v3: a prompt may have its tokens", JUDGE, "            if len(wrong):", "            if False:", T_JUDGE, "sentence"),
    Mutant(
        "new user: sampling builds the default reward",
        "config/compose.py",
        '("scores nothing", {"reward": None, "heldout": None})',
        '("scores nothing", {})',
        "config/test_tasks.py",
        "sampling_asks",
    ),
    Mutant(
        "new user: a part that is left out is not said",
        FILES,
        "settings |= dict.fromkeys(left_out(folder))",
        "pass",
        "domains/test_diffusers.py",
        "without_one_of",
    ),
    Mutant(
        "new user: the card has no reward",
        "tasks/export.py",
        'yaml.safe_load((folder / CONFIG).read_text())["reward"]',
        'cfg.nodes["reward"]',
        "test_tasks.py",
        "plain_diffusers_folder",
    ),
    Mutant(
        "new user: captions are cut", DRAWING, "max_lines=LINES", "max_lines=1", "images/test_drawing.py", "wrapped_as"
    ),
    Mutant(
        "new user: captions lie on the images", DRAWING, "GRID_LINE_INCHES = 4.8, 0.125",
        "GRID_LINE_INCHES = 4.8, 0.09", "images/test_drawing.py", "ends_above",
    ),
]  # fmt: skip
