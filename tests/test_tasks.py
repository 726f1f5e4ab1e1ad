"""Every task end to end: what the run folder holds, that its numbers agree with each other, and what can be loaded from it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pgdlab import cli
from pgdlab.config.compose import load_run
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.tasks import train
from pgdlab.training.build import build_world
from pgdlab.training.fit import LAST, load
from tests.worlds import QUICK, base, equal, tiny

ROOT = Path(__file__).resolve().parent.parent
HEADLINE = {
    "reward_before", "reward_after", "heldout_before", "heldout_after", "kl_nats", "reward_queries",
    "network_evaluations", "seconds", "seed", "versions",
}  # fmt: skip
JOINT = ("initial=diagonal", "penalty=path_kl", "trainer=ppo", "trainer.minibatches=2", "plan.eval_samples=8")
NOISE = ("policy=frozen", "initial=diagonal", "policy.kernel.eta=0.0")


class Runs:
    """Runs that the tests of this file share, made once, in one working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, {}

    def make(self, name: str, *overrides: str, code: int = 0) -> Path:
        run = self.folder / "runs" / name
        if not run.exists():
            assert cli.main([*tiny(*overrides), f"name={name}"]) == code
        return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture
def runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(folder)
    return Runs(folder)


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / SUMMARY).read_text())


def test_train_leaves_a_run_folder(runs: Runs) -> None:
    run = runs.make("joint", *JOINT)
    files = {str(f.relative_to(run)) for f in run.rglob("*") if f.is_file()}
    assert files >= {
        "config.yaml",
        METRICS,
        SUMMARY,
        "before_after.png",
        "learning_curve.png",
        str(LAST),
        "command.txt",
    }
    assert not [f for f in files if f.endswith(".part")]
    for picture in ("before_after.png", "learning_curve.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 100
            assert len(image.convert("L").getcolors(256) or range(257)) > 8  # not blank
    assert summary(run).keys() >= HEADLINE
    assert summary(run)["versions"].keys() >= {"pgdlab", "torch", "lightning", "diffusers", "python"}
    policy = load_run(run).nodes["policy"]  # a checkpoint without its sampler is no policy
    assert (policy["steps"], policy["guidance"], policy["kernel"]["eta"]) == (4, 1.0, 1.0)
    assert policy["tuning"]["_target_"] == "pgdlab.diffusion.tuning.Full"


def test_the_numbers_of_a_run_agree(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, forward = [], DiffusersDenoiser.forward

    def counting(self: Any, x: Any, t: Any, cond: Any) -> Any:
        rows.append(len(x))
        return forward(self, x, t, cond)

    def without_evaluation(world: Any, checkpoint: Path) -> Any:
        rows.append(None)
        return timed(world, checkpoint)

    timed = train.timed
    monkeypatch.setattr(train, "timed", without_evaluation)
    monkeypatch.setattr(train, "examine", lambda module, precision: [])
    monkeypatch.setattr(DiffusersDenoiser, "forward", counting)
    found = summary(runs.make("counted", *JOINT, "plan.pass_size=64", "plan.rollout_batch=64"))
    training = rows[: rows.index(None)]
    assert found["network_evaluations"] == sum(training)
    assert found["reward_queries"] == 2 * 8
    with (runs.folder / "runs" / "counted" / METRICS).open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["queries"]) == found["reward_queries"]
    assert float(last["evaluations"]) == found["network_evaluations"]
    assert float(last["kl_nats"]) == pytest.approx(float(last["path_kl_nats"]) + float(last["initial_kl_nats"]))
    assert 0 < found["training_seconds"] < found["seconds"]


def test_the_evaluation_is_honest(runs: Runs) -> None:
    """Every policy on the same fresh noise; the base is 0 nats from itself; a tuned ODE has no KL, rather than 0."""
    found = summary(runs.make("joint", *JOINT))
    table = found["evaluations"]
    assert table.keys() == {f"{w}/{s}" for w in ("base", "raw", "ema") for s in ("sde", "ode")}
    assert found["reward_before"] == table["base/sde"]["reward"]
    assert found["reward_after"] == table["ema/sde"]["reward"]
    assert found["heldout_after"] == table["ema/sde"]["heldout"]
    assert found["kl_nats"] == table["ema/sde"]["kl_nats"] > 0
    assert found["reward_gain"] == pytest.approx(found["reward_after"] - found["reward_before"])
    assert table["base/sde"]["kl_nats"] == 0
    assert table["base/ode"]["kl_nats"] == 0
    assert table["ema/ode"]["kl_nats"] is None
    assert table["raw/ode"]["kl_nats"] is None
    assert table["raw/sde"]["kl_nats"] != table["ema/sde"]["kl_nats"]


def test_an_ode_with_tuned_noise_has_a_kl(runs: Runs) -> None:
    found = summary(runs.make("noise", *NOISE))
    assert found["evaluations"].keys() == {"base/ode", "raw/ode", "ema/ode"}
    assert found["kl_nats"] > 0


def test_the_same_seed_gives_the_same_summary(runs: Runs) -> None:
    found = [summary(runs.make(name, *JOINT)) for name in ("joint", "counted")]
    other = summary(runs.make("other", *JOINT, "seed=1"))
    for one in (*found, other):
        for timing in ("seconds", "training_seconds", "evaluation_seconds"):
            assert one.pop(timing) > 0
    assert found[0] == found[1]
    assert found[0]["reward_before"] != other["reward_before"]


def test_a_part_that_is_nowhere_known_does_not_lose_the_run(runs: Runs) -> None:
    """Behind a closed gate a reward that fails is a measured 0; its own value is a part that is not a number."""
    patchy, bright = ("{_target_: tests.worlds.Patchy, limit: -1.0}", "{_target_: tests.worlds.Bright}")
    gated = f"reward={{_target_: pgdlab.rewards.combine.Gate, reward: {patchy}, gate: {bright}, threshold: 9.0}}"
    run = runs.make("gated", gated, "plan.iterations=1", code=3)  # all are paid alike: nothing is learnt
    assert summary(run)["evaluations"]["ema/sde"]["reward/ungated"] is None
    assert summary(run)["evaluations"]["ema/sde"]["reward/open"] == 0
    with (run / METRICS).open(newline="") as file:
        assert next(csv.DictReader(file))["reward/ungated"] == "nan"


def test_a_name_in_use_gets_a_number(runs: Runs) -> None:
    """Runs of training have their own names; those of other tasks have the task's name before."""
    noise = runs.make("noise", *NOISE)
    before = (noise / SUMMARY).read_text()
    assert cli.main([*tiny(*NOISE, "plan.iterations=1"), "name=noise"]) == 0
    sampling = ["task=sample", QUICK, f"domain.weights={base()}", "plan.eval_samples=2", "policy.steps=2", "name=noise"]
    for _ in range(2):
        assert cli.main(sampling) == 0
    found = {f.name for f in (runs.folder / "runs").glob("*noise*")}
    assert found == {"noise", "noise-2", "sample-noise", "sample-noise-2"}
    assert (noise / SUMMARY).read_text() == before


def test_the_three_lines_at_the_end(runs: Runs, capsys: Any) -> None:
    run = runs.make("said", *JOINT, "plan.iterations=1")
    out = capsys.readouterr().out.strip().splitlines()
    found = summary(run)
    assert len(out) == 3
    assert f"reward {found['reward_before']:.3f} -> {found['reward_after']:.3f}" in out[0]
    assert f"held out {found['heldout_before']:.3f}" in out[0]
    assert "8 reward queries" in out[1]
    for picture in ("before_after.png", "learning_curve.png"):
        assert f"runs/said/{picture}" in out[2]


def test_sample_and_evaluate_a_run(runs: Runs) -> None:
    run = runs.make("joint", *JOINT)
    assert cli.main(["task=sample", f"resume={run}"]) == 0
    tuned = torch.load(run / "samples.pt")
    assert tuned["sample"].shape == (8, 1, 8, 8)
    with Image.open(run / "samples.png") as image:
        assert min(image.size) > 100
    assert cli.main(["task=evaluate", f"resume={run}", "plan.eval_samples=8"]) == 0
    again = json.loads((run / "evaluation.json").read_text())
    for name, row in summary(run)["evaluations"].items():
        assert again["evaluations"][name] == row
    assert again["reward_after"] == summary(run)["reward_after"]
    assert (
        cli.main(
            ["task=sample", QUICK, f"domain.weights={base()}", "policy.steps=4", "plan.eval_samples=8", "name=base"]
        )
        == 0
    )
    assert not torch.equal(torch.load(runs.folder / "runs" / "sample-base" / "samples.pt")["sample"], tuned["sample"])


def exported(run: Path) -> tuple[Path, Any, tuple[Any, ...]]:
    """The export's folder, the run's averaged denoiser as pgdlab builds it, and an input."""
    assert cli.main(["task=export", f"resume={run}"]) == 0
    world = build_world(load_run(str(run)))
    averaged = {
        k.removeprefix("policy."): v for k, v in load(run / LAST)["state_dict"].items() if k.startswith("policy.")
    }
    world.policy.load_state_dict(averaged)
    g = torch.Generator().manual_seed(0)
    return run / "export", world, (torch.randn(5, 1, 8, 8, generator=g), torch.arange(5) * 200, torch.arange(5))


def test_export_is_a_plain_diffusers_folder(runs: Runs) -> None:
    from diffusers import DDIMScheduler, UNet2DModel

    out, world, (x, t, cond) = exported(runs.make("joint", *JOINT))
    network = UNet2DModel.from_pretrained(out, subfolder="unet").eval()
    with torch.no_grad():
        ours = world.policy.denoiser.network(x, t, class_labels=cond).sample
        assert torch.equal(network(x, t, class_labels=cond).sample, ours)
    assert DDIMScheduler.from_pretrained(out, subfolder="scheduler").config.prediction_type == "v_prediction"
    card = (out / "README.md").read_text()
    assert "from_pretrained" in card
    assert str(summary(runs.folder / "runs" / "joint")["reward_after"]) in card
    facts = json.loads(card.partition("```json\n")[2].partition("```")[0])
    assert facts["sampler"]["kernel"] == {"_target_": "pgdlab.diffusion.kernels.DDIM", "eta": 1.0, "quiet": None}
    assert (facts["sampler"]["steps"], facts["sampler"]["guidance"]) == (4, 1.0)
    assert facts["tuned"]["tuning"] == {"_target_": "pgdlab.diffusion.tuning.Full"}
    assert facts["tuned"]["trained_steps"] == {"_target_": "pgdlab.rollout.plan.AllSteps"}
    assert facts["tuned"]["stochastic_steps"] == 3  # of 4: the last one is deterministic, and the reference's
    assert facts["tuned"]["initial"]["_target_"].endswith("Diagonal")
    assert facts["reward"]["_target_"] == "pgdlab.rewards.image.classes.ClassProbability"
    assert card.index("from_pretrained") < card.index("```json"), "what a reader wants first"
    rho = load_file(out / "initial.safetensors")
    assert all(torch.equal(rho[n], p) for n, p in world.policy.initial.state_dict().items())
    assert rho["mean"].abs().max() > 0


def test_exported_adapters_load_with_peft(runs: Runs) -> None:
    from diffusers import UNet2DModel
    from peft import PeftModel

    out, world, (x, t, cond) = exported(runs.make("lora", "policy=lora", "optimizer.lr=0.01"))
    network = PeftModel.from_pretrained(UNet2DModel.from_pretrained(base(), subfolder="unet"), out / "lora").eval()
    plain = UNet2DModel.from_pretrained(base(), subfolder="unet").eval()
    with torch.no_grad():
        adapted = world.policy.denoiser.denoiser.network
        assert not adapted.training
        ours = adapted(x, t, class_labels=cond).sample
        # the weights are the same bits; convolutions may pick another algorithm for another memory layout
        assert equal(network.state_dict(), adapted.state_dict())
        assert torch.allclose(network(x, t, class_labels=cond).sample, ours, atol=1e-5)
        assert not torch.allclose(plain(x, t, class_labels=cond).sample, ours, atol=1e-4)


def test_classifiers_are_fitted_and_their_accuracy_is_said(runs: Runs, monkeypatch: Any, capsys: Any) -> None:
    from pgdlab.domains.image import ImageDomain
    from pgdlab.tasks import classifiers

    written = []
    monkeypatch.setattr(classifiers, "fit_classifiers", lambda domain, seed: {"reward": 0.5 + seed})
    monkeypatch.setattr(ImageDomain, "write_reference", lambda self: written.append(self.name))
    assert cli.main(["task=classifiers", "domain=digits", "seed=3"]) == 0
    assert written == ["digits"]
    said = capsys.readouterr().out
    assert said.startswith("writing into ")
    assert "assets/digits" in said.splitlines()[0]
    assert "reward: test accuracy 3.500" in said


def test_the_doctor_is_a_task_on_any_config(runs: Runs, capsys: Any) -> None:
    for extra in (JOINT, ("policy=lora", "penalty=none"), ("trainer=rwr", "penalty=none")):
        assert cli.main(tiny("task=doctor", *extra)) == 0
        assert "ratio: log-ratio mean" in capsys.readouterr().err


def test_from_another_folder(tmp_path: Path) -> None:
    """`python /somewhere/run.py` writes its runs where it is called."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        "task=sample",
        QUICK,
        f"domain.weights={base()}",
        "plan.eval_samples=2",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").is_dir()
    assert len(list(tmp_path.glob("runs/*/samples.png"))) == 1
