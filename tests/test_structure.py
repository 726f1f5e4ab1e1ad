"""The shape of the code: imports point one way, functions and files are short, configs name what exists.

A check returns its offences by name; the test asserts that there are none, and another that a made-up offence is seen.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from pgdlab.config.schema import schema

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pgdlab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# A room may import from itself and from those before it. A room that is not listed fails the test until it has a place.
ROOMS = (
    "functional", "processes", "guest", "config", "diffusion", "rollout", "oracle", "control", "images", "physics",
    "molecules", "planning", "preferences", "penalties", "rewards", "domains", "world", "credit", "trainers", "guidance",
    "training", "evaluation", "certificates", "comparison", "sweep", "tasks", "results", "cli", "api", "__init__", "__main__",
)  # fmt: skip
RANK = {room: rank for rank, room in enumerate(ROOMS)}
AT_THE_ROOT = {"__init__", "__main__", "api", "cli", "guest", "processes", "results", "world"}
LONGEST_FUNCTION, LONGEST_FILE = 40, 300
Check = Callable[[str, str], list[str]]  # (path from the checkout's root, text) -> offences


def over(check: Check, files: list[Path]) -> list[str]:
    """The offences in all files, each with its file's name in front."""
    named = {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}
    return [f"{name}: {offence}" for name, text in named.items() for offence in check(name, text)]


def none(offences: list[str]) -> None:
    """Fails with all of them in the message."""
    assert not offences, "\n" + "\n".join(offences)


def imports(text: str) -> set[str]:
    """The modules that a source imports, wherever in it, as absolute names; a relative import keeps its dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "pgdlab" else {"." * node.level + str(node.module)}
    return found


def wrong_imports(name: str, text: str) -> list[str]:
    """Imports that point up, or that are relative."""
    room = name.removesuffix(".py").split("/")[1]
    if room not in ROOMS:
        return [f"{room} has no place in ROOMS"]
    found = imports(text)
    inside = [module for module in found if re.match(r"pgdlab\.(?!__)", module)]
    allowed = ("oracle", "functional", "diffusion") if room == "oracle" else ROOMS[: RANK.get(room, -1) + 1]
    up = [module for module in inside if module.split(".")[1] not in allowed]
    return up + [module for module in found if module.startswith(".")]


def too_long(name: str, text: str) -> list[str]:
    """Functions and files that are too long, and names of files that say nothing."""
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    found = [f"{function} has {length} lines" for function, length in lengths if length > LONGEST_FUNCTION]
    lines = len(text.splitlines())
    found += [f"{lines} lines"] if lines > LONGEST_FILE else []
    return found + re.findall(r"(?:^|/)(utils|common|misc|helpers)(?:/|\.py$)", name)


def foreign(_: str, text: str) -> list[str]:
    """Torchvision, which breaks the CPU build of torch, and absolute paths."""
    torchvision = r"""(?:import|from) +torchvision|^ *"torchvision"""
    return re.findall(rf"""{torchvision}|["' ]/(?:home|work|tmp|root|Users)\b|["' ][A-Z]:\\""", text, re.MULTILINE)


def targets(node: object) -> list[str]:
    """Every `_target_` in a YAML tree."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for child in node.values() for t in targets(child)]
    return [t for child in node for t in targets(child)] if isinstance(node, list) else []


def unfounded(_: str, text: str) -> list[str]:
    """Classes that a config names and nobody can import; and whether its first comment, the description, is missing."""
    found = []
    for target in targets(yaml.safe_load(text)):
        try:
            schema(target)
        except ImportError as error:
            found.append(str(error))
    described = any(line.startswith("# ") and not line.startswith("# @") for line in text.splitlines())
    return found if described else [*found, "has no comment that says what it is"]


def sees_configs(name: str, text: str) -> list[str]:
    """The words that only config/ and training/build.py may use: everything else gets plain, typed objects."""
    at_home = name.startswith("pgdlab/config/") or name == "pgdlab/training/build.py"
    return [] if at_home else sorted(set(re.findall(r"DictConfig|OmegaConf|omegaconf", text)))


def test_configurations_stay_in_config_and_build() -> None:
    none(over(sees_configs, SOURCES))


def test_imports_point_one_way() -> None:
    none(over(wrong_imports, SOURCES))
    assert {file.stem for file in PACKAGE.glob("*.py")} == AT_THE_ROOT


def test_functions_and_files_are_short() -> None:
    none(over(too_long, [*SOURCES, ROOT / "run.py"]))


def test_no_torchvision_and_no_absolute_path() -> None:
    none(over(foreign, [*SOURCES, *CONFIGS, ROOT / "run.py", ROOT / "pyproject.toml"]))


def test_configs_name_what_exists_and_say_what_they_are() -> None:
    none(over(unfounded, CONFIGS))


UPWARDS = "def f():\n    from pgdlab import training\n    import pgdlab.tasks.train\nfrom pgdlab.rollout.noise import N"
FAULTS: dict[str, tuple[Check, str, str, set[str]]] = {
    "an import that points up": (
        wrong_imports, "pgdlab/rollout/x.py", UPWARDS, {"pgdlab.training", "pgdlab.tasks.train"},
    ),
    "an oracle that imports the rollout": (
        wrong_imports, "pgdlab/oracle/x.py", UPWARDS, {"pgdlab.training", "pgdlab.tasks.train", "pgdlab.rollout.noise"},
    ),
    "a relative import": (wrong_imports, "pgdlab/rollout/x.py", "from .noise import N", {".noise"}),
    "a new room": (wrong_imports, "pgdlab/cellar/x.py", "", {"cellar has no place in ROOMS"}),
    "a long function": (too_long, "pgdlab/x.py", "async def f():\n" + "    1\n" * 40 + "def f():\n    1", {"f has 41 lines"}),
    "a long file": (too_long, "pgdlab/x.py", "1\n" * 301, {"301 lines"}),
    "a file of odds and ends": (too_long, "pgdlab/rollout/utils.py", "", {"utils"}),
    "torchvision imported": (foreign, "", "def f():\n    from torchvision import io", {"from torchvision"}),
    "torchvision required": (foreign, "", 'dependencies = [\n    "torchvision>=0.2",', {'    "torchvision'}),
    "a path of a machine": (foreign, "", "Path('/home/me/x')", {"'/home"}),
    "a class that is not there": (
        unfounded, "", "# x\na: [{_target_: pgdlab.world.Planet}]", {"pgdlab.world has no class or function Planet"},
    ),
    "a task that sees a configuration": (
        sees_configs, "pgdlab/tasks/x.py", "from omegaconf import DictConfig", {"omegaconf", "DictConfig"},
    ),
    "a config without a word": (unfounded, "", "# @package _global_\na: 1", {"has no comment that says what it is"}),
}  # fmt: skip


def test_faults_are_seen() -> None:
    seen = {fault: set(check(name, text)) for fault, (check, name, text, _) in FAULTS.items()}
    assert seen == {fault: expected for fault, (*_, expected) in FAULTS.items()}


def test_runs_and_builds_are_not_tracked() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/runs/" in ignored
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert not re.search(r"^(runs/|\.venv/|build/)|\.pyc$", tracked, re.MULTILINE)
