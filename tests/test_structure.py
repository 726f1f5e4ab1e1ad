"""The shape of the code: imports point one way, functions and files are short, configs name what exists."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pgdlab.config.schema import schema

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pgdlab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# A room may import from itself and from those before it. What is not listed here fails the test, so that a new room has to
# be given a place.
ROOMS = (
    "functional", "processes", "config", "diffusion", "rollout", "oracle", "images", "molecules", "penalties", "rewards",
    "domains", "world", "credit", "trainers", "guidance", "training", "evaluation", "certificates", "comparison", "sweep",
    "tasks", "cli",
)  # fmt: skip
RANK = {room: rank for rank, room in enumerate(ROOMS)}
AT_THE_ROOT = {"__init__", "cli", "world", "processes"}
LONGEST_FUNCTION, LONGEST_FILE = 40, 300


def room_of(module: str) -> str:
    """`pgdlab.trainers.ppo` -> `trainers`."""
    return module.split(".")[1]


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


def wrong_imports(file: Path, room: str) -> list[str]:
    """Imports of a file in `room` that point up."""
    inside = [name for name in imports(file) if name.startswith("pgdlab.") and not name.startswith("pgdlab.__")]
    if room == "oracle":
        return [name for name in inside if room_of(name) not in ("oracle", "functional", "diffusion")]
    return [name for name in inside if RANK.get(room_of(name), 99) > RANK[room]]


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    room = room_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
    if room != "__init__":
        assert room in RANK, f"{room} has no place in ROOMS"
        assert not wrong_imports(file, room)


def test_only_these_files_stand_outside_the_rooms() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == AT_THE_ROOT


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "def f():\n    from pgdlab import training\n    import pgdlab.tasks.train\nfrom pgdlab.rollout.noise import N"
    )
    assert set(wrong_imports(file, "rollout")) == {"pgdlab.training", "pgdlab.tasks.train"}
    assert set(wrong_imports(file, "oracle")) == {"pgdlab.training", "pgdlab.tasks.train", "pgdlab.rollout.noise"}


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
