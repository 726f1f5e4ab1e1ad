"""The shape of the code: imports point one way, functions and files are short, configs name what exists."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pgdlab.schema import schema

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pgdlab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# A part may import from its own layer and from those before it. What is not listed here fails the test, so that a new
# part has to be given a place; `evaluation.images` may stand elsewhere than the rest of evaluation.
LAYERS = [
    {"functional", "schema", "runs", "molecules"},
    {"diffusion", "memory", "noise", "plan", "budget", "compose", "evaluation.images"},
    {"rollout", "oracle"},
    {"rewards", "domains"},
    {"trainers", "penalties", "guidance"},
    {"module"},
    {"build", "callbacks", "loggers", "export", "fit"},
    {"evaluation", "doctor"},
    {"tasks", "sweep"},
    {"cli", "worker"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
LONGEST_FUNCTION, LONGEST_FILE = 40, 300


def part_of(module: str) -> str:
    """`pgdlab.trainers.ppo` -> `trainers`, or the two names where LAYERS lists them."""
    names = module.split(".")[1:3]
    return ".".join(names) if ".".join(names) in RANK else names[0]


def imports(file: Path) -> set[str]:
    """The modules that a file imports, wherever in the file, as absolute names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "pgdlab" else {str(node.module)}
    return found


def wrong_imports(file: Path, part: str) -> list[str]:
    """Imports of a file in `part` that point against the layers."""
    inside = [name for name in imports(file) if name.startswith("pgdlab.") and not name.startswith("pgdlab.__")]
    if part == "oracle":
        return [name for name in inside if part_of(name) not in ("oracle", "functional", "diffusion")]
    return [name for name in inside if RANK.get(part_of(name), 99) > RANK[part]]


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    part = part_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
    if part != "__init__":
        assert part in RANK, f"{part} has no place in LAYERS"
        assert not wrong_imports(file, part)


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "def f():\n    from pgdlab import module\n    import pgdlab.tasks.train\nfrom pgdlab.noise import N"
    )
    assert set(wrong_imports(file, "rollout")) == {"pgdlab.module", "pgdlab.tasks.train"}
    assert set(wrong_imports(file, "oracle")) == {"pgdlab.module", "pgdlab.tasks.train", "pgdlab.noise"}


@pytest.mark.parametrize("file", [*SOURCES, ROOT / "run.py"], ids=lambda f: str(f.relative_to(ROOT)))
def test_functions_and_files_are_short(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"
    assert file.stem not in ("utils", "common", "misc", "helpers")


@pytest.mark.parametrize("file", [*SOURCES, *CONFIGS], ids=lambda f: str(f.relative_to(ROOT)))
def test_no_torchvision_and_no_absolute_path(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"(import|from) +torchvision", text)
    assert not re.search(r"""["' ](/home|/work|/tmp|/root|/Users|[A-Z]:\\)""", text)


def test_importing_the_package_needs_no_torchvision() -> None:
    requirements = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r'^ *"torchvision', requirements, re.MULTILINE)


def targets(node: object) -> list[str]:
    """Every `_target_` in a YAML tree."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for child in node.values() for t in targets(child)]
    return [t for child in node for t in targets(child)] if isinstance(node, list) else []


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: str(f.relative_to(ROOT)))
def test_configs_name_what_exists_and_say_what_they_are(file: Path) -> None:
    text = file.read_text()
    for target in targets(yaml.safe_load(text)):
        schema(target)
    comments = [line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @")]
    assert comments, "the first comment of a config is its description"


def test_runs_and_builds_are_not_tracked() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/runs/" in ignored
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert not re.search(r"^(runs/|\.venv/|build/)|\.pyc$", tracked, re.MULTILINE)
