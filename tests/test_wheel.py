"""The wheel, as a newcomer has it: built once, unpacked into an environment, used in an empty folder. No network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 65e6  # bytes, 40e6 of them the base of emoji
TINY = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
REWARD = '''
from pgdlab.rewards.base import Reward, Score


class Dark(Reward):
    """Minus the mean grey level."""

    def score(self, sample, cond):
        return Score.of(-sample.flatten(1).mean(1))
'''

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools_scm") is None, reason="needs setuptools-scm, of the extra test"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, as a clone is, so that no build of an earlier day helps."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, listed):
        source, copy = ROOT / os.fsdecode(name), folder / "source" / os.fsdecode(name)
        if source.is_file() and not copy.is_relative_to(folder / "source" / "tests"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", "."]
    subprocess.run([*command, "./source"], cwd=folder, check=True, env=os.environ | {"PIP_NO_INPUT": "1"})
    (built,) = folder.glob("pgdlab-*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path) -> Path:
    """The console command of an environment that has the wheel, and all else from the one that the tests run in."""
    home = wheel.parent / "env"
    venv.create(home, system_site_packages=True, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text(
        "".join(f"{path}\n" for path in others)
    )  # after it: the wheel's pgdlab comes first
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin" / "python"),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True)
    return home / "bin" / "pgdlab"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def said(command: Path, folder: Path, *words: str, code: int = 0) -> str:
    """What the command prints, of both streams."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([command, *words], cwd=folder, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_is_small_and_has_configs_and_assets(wheel: Path) -> None:
    names = {*zipfile.ZipFile(wheel).namelist()}
    listed = subprocess.run(
        ["git", "ls-files", "configs", "sweeps", "pgdlab"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.split():
        assert name.removeprefix("pgdlab/") in {inside.removeprefix("pgdlab/") for inside in names}
    assert wheel.stat().st_size < LARGEST
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert re.search(r"^Version: \d+\.\d+", metadata, re.MULTILINE)


def test_the_command_answers_in_an_empty_folder(command: Path, empty: Path) -> None:
    assert "  pgdlab resume=runs/NAME plan.iterations=80 " in said(command, empty, "--help")
    assert "digits/grpo " in said(command, empty, "ls")
    shown = said(command, empty, "env")
    assert str(command.parent.parent) in shown  # it is the wheel's code that runs
    assert not re.search(r"\n  pgdlab +0\+unknown", shown)
    assert "pgdlab task=evaluate resume=" in said(command, empty, "task=evaluate", code=2)
    assert "Did you mean trainer.clip?" in said(command, empty, "experiment=digits/ppo", "trainer.clp=1", code=2)
    assert [*empty.iterdir()] == []


def test_the_main_job_and_what_users_bring(command: Path, empty: Path) -> None:
    """The quickstart; then an experiment of the user's, with a reward of a module in the folder, and defaults of pgdlab.yaml."""
    assert "runs/quickstart" in said(command, empty, *TINY)
    assert (empty / "runs" / "quickstart" / "command.txt").read_text() == f"pgdlab {' '.join(TINY)}\n"
    said(command, empty, "cp", "digits/reinforce", "mine.yaml")
    (empty / "dark_module.py").write_text(REWARD)
    (empty / "own" / "reward").mkdir(parents=True)
    (empty / "own" / "reward" / "dark.yaml").write_text("# as dark as can be\n_target_: dark_module.Dark\n")
    (empty / "pgdlab.yaml").write_text("seed: 7\nname: night\n")
    said(command, empty, "--config-dir", "own", "experiment=mine.yaml", "reward=dark", "heldout=null", *TINY)
    made = (empty / "runs" / "night" / "config.yaml").read_text()
    assert "seed: 7" in made
    assert "_target_: dark_module.Dark" in made
    rerun = "pgdlab --no-defaults seed=7 name=night --config-dir own experiment=mine.yaml reward=dark heldout=null"
    assert (empty / "runs" / "night" / "command.txt").read_text() == f"{rerun} {' '.join(TINY)}\n"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra sweep")
def test_a_sweep_runs_from_the_wheel(command: Path, tmp_path: Path) -> None:
    text = ["program: pgdlab", "method: grid", "command: [pgdlab, '${args_no_hyphens}']", "parameters:"]
    text += [f"  {key}: {{value: {value}}}" for key, value in (word.split("=") for word in TINY)]
    (tmp_path / "two.yaml").write_text("\n".join([*text, "  seed: {values: [0, 1]}"]))
    (tmp_path / "pgdlab.yaml").write_text("seed: 7\n")  # the sweep's file says what its runs are
    assert "2 trials: 2 finished" in said(command, tmp_path, "task=sweep", "sweep=two.yaml")
    seeds = {re.findall(r"^seed: (\d)", f.read_text(), re.M)[0] for f in tmp_path.glob("runs/two/*/config.yaml")}
    assert seeds == {"0", "1"}
