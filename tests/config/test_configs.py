"""Every option of every group and every experiment composes, builds, and runs one tiny iteration."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgdlab import cli
from pgdlab.config.compose import CONFIGS, options
from tests.molecules.tiny import base_3d, instead_of_qm9
from tests.worlds import POINTS, QUICK, base, fitted, graphs, read_by, tiny

GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and any(folder.rglob("*.yaml")))
OPTIONS = [(group, name) for group in GROUPS for name in options(group)]
SMALL = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
FEW = ["trainer.updates=2", "trainer.batch=4"]
MOLECULES = ["reward=valid", "heldout=null"]  # the quickstart's rewards are of images
LAWS = {law: [f"reward={law}_residual", "domain.weights=null"] for law in ("darcy", "pendulum")}  # their own bases
# what an option cannot do without
WITH = {
    "policy/frozen": ["initial=diagonal"],
    "reward/prompt_class": ["domain=digits"],  # the quickstart prompts no class
    "domain/gaussian": POINTS,
    "domain/mixture": [*POINTS, "domain=mixture"],
    "domain/finite_set": [*POINTS, "domain=finite_set", "reward.slope=[1,0]"],
    "reward/quadratic": POINTS,
    "reward/heldout_target": ["reward.target=3"],  # of the reward's own, where it is the judge
    "reward/above": [*POINTS, "reward=above"],
    "policy/affine": POINTS,
    "policy/network": [*POINTS, "policy=network"],
    "trainer/rwr": ["penalty=none", *FEW],
    **{
        f"trainer/{name}": ["penalty=none", *FEW]
        for name in ("awm", "nft", "ram", "crd", "dgpo", "fpo", "dpo", "kto", "d3po")
    },
    **{f"experiment/digits/{name}": FEW for name in ("awm", "nft", "ram", "crd", "dgpo", "fpo", "kto", "d3po")},
    "trainer/spo": ["penalty=none", "trainer.start=0", *FEW],
    "experiment/digits/spo": ["trainer.start=0", *FEW],
    "trainer/eager": ["penalty=none"],
    "trainer/per_part": ["reward=target_and_quality"],
    "trainer/grpo_guard": [
        *POINTS,
        "domain.schedule={_target_: pgdlab.diffusion.schedules.Flow}",
        "policy.kernel.eta=0.5",
    ],
    "experiment/oracle/ddrl": ["penalty.data_loss.samples=8", "penalty.data_loss.batch=4"],
    "trainer/pretrain": ["penalty=none", *FEW],
    "experiment/digits/dpo": FEW,
    "experiment/digits/rwr": FEW,
    "guidance/multiplier": ["guidance.limit=2"],
    "experiment/digits/multiplier": ["guidance.limit=2"],  # of samples of a random base
    "experiment/digits/svdd": ["guidance.scored=[0.4]"],  # of three steps
    "experiment/oracle/smc": ["guidance.particles=2"],
    "experiment/digits/window": ["plan.trained_steps.size=1"],
    "experiment/fashion/rwr": FEW,
    "experiment/molecules/rwr": FEW,
    **{f"domain/{law}": words for law, words in LAWS.items()},
    **{f"reward/{law}_{what}": [f"domain={law}", LAWS[law][1]] for law in LAWS for what in ("residual", "solved")},
    **{f"experiment/{law}/{how}": LAWS[law][1:] for law in LAWS for how in ("quick", "ppo", "joint", "initial")},
}
CONTROL = [
    "domain=lqr", "reward=paid", "heldout=null", "trainer=dppo", "penalty=none", "plan.group=1", "plan.samples=20",
]  # fmt: skip
WITH |= {
    "domain/lqr": CONTROL[1:],
    "reward/paid": [word for word in CONTROL if word != "reward=paid"],
    "trainer/dppo": [word for word in CONTROL if word != "trainer=dppo"],
    **{f"experiment/control/{name}": CONTROL[-2:] for name in ("quick", "initial", "joint")},
}
ELSEWHERE = {"runtime/ddp_cpu": "test_processes", "runtime/ddp": "two GPUs", "logger/wandb": "test_loggers"}
ELSEWHERE |= {"runtime/fsdp_cpu": "test_sharding", "runtime/fsdp": "two GPUs"}
ELSEWHERE |= {"logger/tensorboard": "test_loggers", "logger/mlflow": "test_loggers", "reward/function": "test_api"}
ELSEWHERE |= {"reward/overlapped": "rewards/test_overlapped"}
ELSEWHERE |= {f"annotator/{name}": "preferences/test_page" for name in ("page", "simulated")}
ELSEWHERE |= dict.fromkeys(("preferences/ensemble", "reward/preference"), "preferences/test_tasks")
# what needs weights
ELSEWHERE |= {f"reward/{name}": "rewards/test_text_clip" for name in ("clip_score", "pick_score")}
ELSEWHERE |= {f"reward/{name}": "rewards/test_text_aesthetic" for name in ("aesthetic", "aesthetic_v2_5")}
ELSEWHERE |= {"reward/hps_v2": "rewards/test_text_open_clip", "reward/image_reward": "rewards/test_text_image_reward"}
ELSEWHERE |= {"reward/ocr": "rewards/test_text_ocr", "reward/vlm": "rewards/test_text_vlm"}
ELSEWHERE |= {"reward/gen_eval": "rewards/test_text_gen_eval", "reward/hps_v3": "rewards/test_text_hps_v3"}
ELSEWHERE |= {"trainer/offline": "trainers/test_offline", "experiment/digits/offline": "trainers/test_offline"}
# what needs files of one's own
OWN = ("domain/folder", "experiment/pretrain/folder", "experiment/folder/jpeg")
OWN += ("domain/smiles", "experiment/pretrain/smiles", "experiment/smiles/valid")
OWN += ("domain/diffusers", "experiment/diffusers/jpeg")
OWN += ("domain/captioned", *(f"experiment/pretrain/captioned{task}" for task in ("", "_clip", "_autoencoder")))
OWN += ("experiment/pretrain/maze", "experiment/pretrain/pointmaze")
KINDS = ("folder", "smiles", "diffusers", "captioned")
ELSEWHERE |= {name: f"domains/test_{kind}" for kind in KINDS for name in OWN if kind in name}
# of colour images, or of a base with prompts
ELSEWHERE |= {"reward/red": "rewards/test_colour"}
EMOJI = ("domain/emoji", "experiment/quickstart", "reward/emoji_clip", "reward/emoji_judge")
EMOJI += tuple(f"experiment/emoji/{name}" for name in ("clip", "jpeg", "red", "compose", "adjoint_red"))
EMOJI += tuple(f"experiment/emoji/{name}_red" for name in ("draft", "smc", "gradient", "best_of_n"))
MAZE = ("domain/maze", "experiment/pretrain/maze", "initial/informed")
MAZE += tuple(
    f"experiment/maze/{name}" for name in ("best_of_n", "draft", "gradient", "initial", "joint", "multiplier")
)
MAZE += tuple(f"experiment/maze/{name}" for name in ("ppo", "quick", "smc"))
ELSEWHERE |= dict.fromkeys(MAZE, "domains/test_maze")
POINTMAZE = (
    "domain/pointmaze",
    "experiment/pretrain/pointmaze",
    "experiment/control/pointmaze",
    "experiment/control/noise",
)
ELSEWHERE |= dict.fromkeys(POINTMAZE, "domains/test_pointmaze")
PLANS = ("collision_free", "collision_share", "crossing", "depth", "safe_plan", "short")
ELSEWHERE |= {f"reward/{name}": "rewards/test_plan" for name in PLANS}
ELSEWHERE |= {"guidance/value": "guidance/test_learned"}
ELSEWHERE |= dict.fromkeys(EMOJI, "domains/test_emoji")


def is_molecular(group: str, name: str) -> bool:
    text = options(group)[name].read_text()
    return name == "qm9" or "pgdlab.rewards.molecule." in text or "/domain: qm9\n" in text


def steers(group: str, name: str) -> bool:
    return (
        group == "experiment"
        and re.search(r"^task: (steer|best_of_n)$", options(group)[name].read_text(), re.M) is not None
    )


def is_fashion(group: str, name: str) -> bool:
    return "fashion" in name or (group, name) in (("reward", "imagenet"), ("reward", "jpeg_photo"))


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=["/".join(option) for option in OPTIONS])
def test_an_option_runs_one_iteration(group: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"{group}/{name}"
    if key in ELSEWHERE:
        pytest.skip(f"see {ELSEWHERE[key]}")
    if key in ("runtime/gpu", "runtime/bf16") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if key == "reward/imagenet" and importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        pytest.skip("needs the extra imagenet; without it: test_rewards")
    if group == "value" or name == "digits/value":
        pytest.skip("see guidance/test_learned")
    if group == "certificate":
        pytest.skip("see test_certificate")
    if "pretrain/" in name:
        pytest.skip("see test_a_base_is_pretrained")
    fashion = [f"domain.weights={base(28)}", *(["domain=fashion"] if group != "experiment" else [])]
    with_base = fashion if is_fashion(group, name) else atoms() if key == "domain/qm9_3d" else []
    if is_molecular(group, name):
        reward = {"reward": [f"reward={name}"], "domain": ["reward=valid"]}
        with_base = [*graphs(), *reward.get(group, [])]
        if "XTB" in options(group)[name].read_text():
            pytest.importorskip("tblite")
    if group == "guidance":
        monkeypatch.chdir(tmp_path)
        sizes = ["policy.steps=3", "plan.samples=4", "plan.iterations=10", "plan.eval_samples=4"]
        assert (
            cli.main([QUICK, f"domain.weights={base()}", *sizes, "task=steer", f"guidance={name}", *WITH.get(key, [])])
            == 0
        )
        return
    if steers(group, name):  # it trains nothing
        monkeypatch.chdir(tmp_path)
        many = [word if "iterations" not in word else "plan.iterations=20" for word in SMALL]
        words = tiny(f"{group}={name}", *many, *with_base, *WITH.get(key, []))
        exact = "oracle/" in name  # no base to be had
        assert cli.main([word for word in words if read_by("steer", word) and not (exact and "weights" in word)]) == 0
        return
    picked = f"[{name}]" if group == "penalty" else name
    module = fitted(tmp_path, f"{group}={picked}", *SMALL, *with_base, *WITH.get(key, []))
    row = module.history[-1]
    assert row["iteration"] == 1
    assert all(math.isfinite(value) for value in row.values())
    start = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["current_model_state"]
    assert all(x.isfinite().all() for x in start.values())


def atoms() -> list[str]:
    """What a run on qm9_3d needs: no base ships."""
    return [f"domain.weights={base_3d()}", *MOLECULES]


def write_idx(folder: Path) -> None:
    """Forty random images a split, in Fashion-MNIST's format."""
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        labels = np.arange(40, dtype=np.uint8) % 10
        for kind, data in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = np.array([2048 + data.ndim, *data.shape], dtype=">i4")
            (folder / f"{part}-{kind}-ubyte").write_bytes(head.tobytes() + data.tobytes())


@pytest.mark.parametrize(
    "name", [name for name in options("experiment") if "pretrain/" in name and f"experiment/{name}" not in OWN]
)
def test_a_base_is_pretrained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through run.py's main, with the tiny data of a folder that the user names; what it exports is a base again."""
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path)
    folder = [f"domain.folder={tmp_path}"] if "fashion" in name else []
    if "qm9" in name:
        instead_of_qm9(tmp_path, monkeypatch)
    monkeypatch.setattr("pgdlab.domains.field.TRAINING", 40)
    assert (
        cli.main([f"experiment={name}", *folder, "plan.iterations=1", *FEW, "plan.eval_samples=4", "policy.steps=2"])
        == 0
    )
    run = next((tmp_path / "runs").iterdir())
    assert (run / "samples.png").stat().st_size > 1000
    assert (run / "base" / "README.md").exists()
    others = CONTROL[1:] if "lqr" in name else LAWS.get(Path(name).name, [])[:1]
    others = MOLECULES if "qm9" in name else others
    own = [f"domain={Path(name).name}", *others, f"domain.weights={run / 'base'}"]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    raw, averaged = checkpoint["current_model_state"], checkpoint["state_dict"]
    assert any(not torch.equal(raw[k], averaged[k]) for k in raw if raw[k].is_floating_point() and k != "seconds")
    module = fitted(tmp_path / "steered", *SMALL, *own)
    assert module.history[-1]["iteration"] == 1


def test_a_runtime_that_this_machine_lacks_is_refused(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    assert cli.main([QUICK, "runtime=gpu", f"domain.weights={base()}", *SMALL]) == 2
    assert "error: runtime.accelerator is gpu, but torch sees no GPU" in capsys.readouterr().err
