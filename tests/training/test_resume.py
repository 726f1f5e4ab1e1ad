"""A run that was interrupted and resumed is the run that never was: bit for bit, after SIGTERM and after SIGKILL."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgdlab import cli
from pgdlab.config.compose import load_run
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.diffusion.digest import digest
from pgdlab.diffusion.policy import frozen_weights
from pgdlab.training.build import build_module
from pgdlab.training.fit import LAST, load
from tests.worlds import BRIGHT, POINTS, Bright, base, fitted, tiny

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "plan.iterations=4",
    "trainer=ppo",
    "trainer.minibatches=2",
    "penalty=constraint",
    "penalty.constraint.limit=0.01",
)


class Terminates(Bright):
    """Sends its own process a signal at the scoring that `left` counts down to, once, as a cluster's scheduler would."""

    left, number = 0, signal.SIGTERM

    def score(self, sample: Any, cond: Tensor) -> Any:
        Terminates.left -= 1
        if Terminates.left == 0:
            os.kill(os.getpid(), Terminates.number)
        return super().score(sample, cond)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two nested states differ, bitwise."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if torch.equal(a, b) and a.dtype == b.dtype else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        unshared = [f"{name}.{k}" for k in a.keys() ^ b.keys()]
        return unshared + [d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{name}.{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{name}[{i}]")]
    return [] if a == b else [name]


def state(folder: Path) -> dict[str, Any]:
    """All that a run continues from: raw and averaged weights, buffers, optimizer, schedule; not the seconds it took."""
    saved = load(folder / LAST)
    for part in ("state_dict", "current_model_state"):
        saved[part].pop("seconds")
    names = (
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "epoch",
        "global_step",
    )
    return {name: saved[name] for name in names}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("number", "extra"),
    [
        (signal.SIGTERM, ("policy=full", "initial=diagonal", "optimizer.warmup=3", "optimizer.final_lr=0.1")),
        (
            signal.SIGINT,
            ("policy=lora", "plan.trained_steps={_target_: pgdlab.rollout.plan.RandomSteps, fraction: 0.5}"),
        ),
        (signal.SIGTERM, ("trainer=adjoint_matching", "policy=full", "initial=diagonal")),
    ],
    ids=["joint", "lora", "adjoint"],
)
def test_a_signal_saves_and_resuming_continues_bit_for_bit(
    here: Path, capfd: Any, number: signal.Signals, extra: tuple[str, ...]
) -> None:
    whole = fitted(here / "whole", *SETTINGS, *extra, BRIGHT)
    stopping = "reward={_target_: tests.training.test_resume.Terminates}"
    Terminates.left, Terminates.number = 5, number  # the doctor scores three times
    handler = signal.getsignal(number)
    assert cli.main([*tiny(*SETTINGS, *extra, stopping), "name=cut"]) == 128 + number
    assert signal.getsignal(number) == handler
    said = capfd.readouterr()
    assert "stopping after this iteration; once more to stop at once" in said.err
    assert (
        "stopped after iteration 2; go on with: python run.py resume=runs/cut trust=tests.training.test_resume\n"
        in said.out
    )
    cut = here / "runs" / "cut"
    assert int(load(cut / LAST)["current_model_state"]["iterations"]) == 2
    assert not (cut / SUMMARY).exists()

    (cut / METRICS).write_text(
        (cut / METRICS).read_text() + (cut / METRICS).read_text().splitlines()[-1].replace("2.0", "3.0") + "\n"
    )
    assert cli.main(said.out.rpartition("python run.py ")[2].split()) == 0  # the printed command
    assert not differences(state(cut), state(here / "whole"))
    assert rows(cut) == rows(here / "whole")
    coefficients = [row["penalty/coefficient"] for row in rows(cut)]
    assert len(set(coefficients)) == 4
    assert int(whole.iterations) == 4
    assert (cut / SUMMARY).exists()


def test_sigkill_loses_nothing_but_the_iteration(here: Path) -> None:
    """A real process, killed as soon as it has a checkpoint; resumed by another one."""
    whole = fitted(here / "whole", *SETTINGS, BRIGHT, "plan.iterations=12")
    command = [sys.executable, str(ROOT / "run.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    arguments = tiny(*SETTINGS, BRIGHT, "plan.iterations=12", "name=cut")
    process = subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.DEVNULL)
    cut, late = here / "runs" / "cut", time.monotonic() + 120
    while not (cut / LAST).exists():
        assert process.poll() is None
        assert time.monotonic() < late
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = int(load(cut / LAST)["current_model_state"]["iterations"])
    assert 1 <= done < 12

    assert cli.main(["resume=runs/cut"]) == 0
    assert not differences(state(cut), state(here / "whole"))
    assert rows(cut) == rows(here / "whole")
    assert len(whole.history) == 12


def test_a_finished_run_is_extended(here: Path, capsys: Any) -> None:
    assert cli.main([*tiny(BRIGHT), "name=x"]) == 0
    first = rows(here / "runs" / "x")
    assert cli.main(["resume=runs/x"]) == 0
    assert rows(here / "runs" / "x") == first
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0
    longer = rows(here / "runs" / "x")
    assert longer[:2] == first
    assert [float(row["iteration"]) for row in longer] == [1, 2, 3]
    assert cli.main(["resume=runs/x"]) == 0  # the extension is part of the run now
    assert rows(here / "runs" / "x") == longer
    assert "iterations: 3" in (here / "runs" / "x" / "config.yaml").read_text()


def test_pretraining_with_dropout_resumes_bit_for_bit(here: Path) -> None:
    """Dropout draws from torch's global generator, which no checkpoint holds: it is keyed."""
    small = [
        "experiment=pretrain/digits",
        "trainer.updates=2",
        "trainer.batch=4",
        "plan.eval_samples=4",
        "policy.steps=2",
    ]
    small += ["plan.checkpoint_every=1", "optimizer.final_lr=1.0"]
    assert cli.main([*small, "name=whole", "plan.iterations=3"]) == 0
    assert cli.main([*small, "name=cut", "plan.iterations=2"]) == 0
    torch.manual_seed(5)
    saved = load(here / "runs" / "cut" / LAST)["current_model_state"]
    assert int(saved["iterations"]) == 2
    assert cli.main(["resume=runs/cut", "plan.iterations=3"]) == 0
    parts = ("current_model_state", "optimizer_states")
    whole, cut = (state(here / "runs" / name) for name in ("whole", "cut"))
    assert not differences({k: cut[k] for k in parts}, {k: whole[k] for k in parts})


@pytest.mark.parametrize("trainer", ["dpo", "d3po"])
def test_learning_from_pairs_resumes_bit_for_bit(trainer: str, here: Path) -> None:
    pairs = [f"trainer={trainer}", "penalty=none", "trainer.updates=2", "trainer.batch=4", "trainer.temperature=0.1"]
    for name, iterations in (("whole", 3), ("cut", 2)):
        assert cli.main([*tiny(BRIGHT, *pairs, f"name={name}", f"plan.iterations={iterations}")]) == 0
    assert cli.main(["resume=runs/cut", "plan.iterations=3"]) == 0
    parts = ("current_model_state", "optimizer_states")
    whole, cut = (state(here / "runs" / name) for name in ("whole", "cut"))
    assert not differences({k: cut[k] for k in parts}, {k: whole[k] for k in parts})


def test_a_slow_old_policy_resumes_bit_for_bit(here: Path) -> None:
    """It is no function of the trained weights, and the checkpoint holds it; a checkpoint without it is refused."""
    slow = ["trainer=nft", "penalty=none", "trainer.decay=0.5", "trainer.updates=2", "trainer.batch=8"]
    for name, iterations in (("whole", 4), ("cut", 2)):
        fitted = [*tiny(BRIGHT, *slow, f"name={name}", f"plan.iterations={iterations}")]
        assert cli.main(fitted) == 0
    kept = load(here / "runs" / "cut" / LAST)["kept"]
    now = load(here / "runs" / "cut" / LAST)["current_model_state"]
    assert any(not torch.equal(x, now[f"policy.{name}"]) for name, x in kept.items())
    assert cli.main(["resume=runs/cut", "plan.iterations=4"]) == 0
    parts = ("current_model_state", "optimizer_states")
    whole, cut = (state(here / "runs" / name) for name in ("whole", "cut"))
    assert not differences({k: cut[k] for k in parts}, {k: whole[k] for k in parts})
    without = torch.load(here / "runs" / "cut" / LAST, weights_only=False)
    del without["kept"]
    torch.save(without, here / "runs" / "cut" / LAST)
    assert cli.main(["resume=runs/cut", "plan.iterations=5"]) == 2


@pytest.mark.parametrize(
    "extra", [(), ("policy=lora",), ("policy=network",), ("policy=frozen", "initial=diagonal")], ids=str
)
def test_a_base_that_was_exchanged_is_refused(here: Path, extra: tuple[str, ...], capsys: Any) -> None:
    """The reference is in no checkpoint: kl_nats and the penalty would go on against another base."""
    shutil.copytree(base(), here / "base")
    own = [o for o in tiny(BRIGHT, "penalty=path_kl", "name=x", *extra) if not o.startswith("domain.weights")]
    assert cli.main([*own, "domain.weights=base"]) == 0
    weights = here / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    moved = {name: x + 0.01 for name, x in load_file(weights).items()}
    save_file(moved, weights, metadata={"format": "pt"})
    for command in (["resume=runs/x", "plan.iterations=3"], ["task=evaluate", "resume=runs/x"]):
        assert cli.main(command) == 2
        assert "was made on another base" in capsys.readouterr().err
    weights.write_bytes(before)
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0


def test_a_checkpoint_holds_what_trains(here: Path) -> None:
    """Twice (raw and averaged), and the optimizer's two moments; not the base, which alone is larger than this bound."""
    words = [word for word in tiny(BRIGHT, "policy=lora", "name=x") if not word.startswith("domain.weights")]
    assert cli.main(words) == 0
    state = load(here / "runs" / "x" / LAST)
    weights = {name: x for name, x in state["current_model_state"].items() if name.startswith("policy.")}
    assert weights
    assert all("lora" in name for name in weights)
    moments = 2 * sum(x.nbytes for x in weights.values())
    assert (here / "runs" / "x" / LAST).stat().st_size < 3 * moments


def test_an_earlier_checkpoint_with_the_base_in_it_is_taken_where_it_is_that_base(here: Path, capsys: Any) -> None:
    assert cli.main([*tiny(BRIGHT, "policy=lora"), "name=x"]) == 0
    module, path = build_module(load_run("runs/x")), here / "runs" / "x" / LAST
    state = torch.load(path, weights_only=True)
    weights = {f"policy.{name}": p.data for name, p in frozen_weights(module.policy).items()}
    assert weights
    for part in ("state_dict", "current_model_state"):
        state[part] |= weights
    state["base"] = digest(module.world.reference, adapted=False)
    torch.save(state, path)
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0
    torch.save(
        state | {"current_model_state": state["current_model_state"] | {n: x + 1 for n, x in weights.items()}}, path
    )
    for command in (["resume=runs/x", "plan.iterations=4"], ["task=evaluate", "resume=runs/x"]):
        assert cli.main(command) == 2
        assert "was made on another base" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [("policy=lora",), ("policy=frozen", "initial=diagonal"), POINTS], ids=str)
def test_every_kind_of_base_is_known_again(here: Path, extra: tuple[str, ...]) -> None:
    settings = tiny(BRIGHT, *extra, "name=x")
    assert cli.main([o for o in settings if o != BRIGHT or extra is not POINTS]) == 0
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0


def test_a_pretraining_run_resumes_as_the_run_it_was(here: Path, capsys: Any) -> None:
    small = [
        "experiment=pretrain/digits",
        "trainer.updates=2",
        "trainer.batch=4",
        "plan.eval_samples=4",
        "policy.steps=2",
    ]
    assert cli.main([*small, "plan.iterations=1", "name=pre"]) == 0
    for override in ("optimizer.lr=0.5", "seed=7"):
        assert cli.main(["resume=runs/pre", override]) == 2
        assert f"{override.partition('=')[0]} cannot change when a run resumes" in capsys.readouterr().err
