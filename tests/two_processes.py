"""Fits every scenario of test_processes; started by it, and once more by Lightning for the second process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.processes import is_cut, local
from pgdlab.training.fit import fit
from tests.worlds import BRIGHT, continued, fitted, recorder

PATCHY = ("reward={_target_: tests.worlds.Patchy, limit: 0.7}", "plan.max_failed=0.9")
JOINT = ("initial=diagonal", "penalty=path_kl", "trainer=ppo")
# name -> (whether in fp64, overrides)
SCENARIOS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "fp32": (False, (*JOINT, BRIGHT, "trainer.minibatches=2", "plan.iterations=1")),
    "ppo": (True, (*JOINT, *PATCHY, "trainer.minibatches=4", "plan.iterations=3")),
    "passes": (True, (*JOINT, *PATCHY, "trainer.minibatches=2", "plan.iterations=3", "plan.pass_size=3")),
    "target": (
        True,
        ("penalty=constraint", "trainer=reinforce", "trainer.scale=batch_std", *PATCHY, "plan.iterations=3"),
    ),
    "grpo": (
        True,
        ("trainer=grpo", "penalty=none", "policy=lora", *PATCHY, "plan.iterations=3", "plan.rollout_batch=3"),
    ),
    "rwr": (
        True,
        ("trainer=rwr", "penalty=none", *PATCHY, "plan.iterations=3", "trainer.updates=3", "trainer.batch=6"),
    ),
    # two conditions, one a process: all that the second (or first) one has fails, and it has no pass and no ratio to log
    "failing": (
        True,
        (
            *JOINT,
            "reward={_target_: tests.worlds.OneClass}",
            "plan.max_failed=0.6",
            "domain.train_conditions=[0,1]",
            "trainer.minibatches=1",
            "plan.iterations=3",
        ),
    ),
    # advantages that bootstrap from the critic: its gradient must be reduced too
    "critic": (
        True,
        ("trainer=actor_critic", "initial=diagonal", *PATCHY, "trainer.minibatches=2", "plan.iterations=3"),
    ),
    "terminal": (
        True,
        ("penalty=[path_kl,terminal]", "penalty.terminal.samples=6", "trainer=ppo", *PATCHY, "plan.iterations=2"),
    ),
    "adjoint": (
        True,
        (
            "trainer=adjoint_matching",
            "penalty=path_kl",
            "initial=diagonal",
            *PATCHY,
            "trainer.minibatches=2",
            "plan.iterations=3",
        ),
    ),
    "draft": (True, ("trainer=draft", "penalty=constraint", "policy=lora", *PATCHY, "plan.iterations=3")),
    "dpo": (
        True,
        ("trainer=dpo", "penalty=none", *PATCHY, "plan.iterations=3", "trainer.updates=3", "trainer.batch=6"),
    ),
    "dpo, chain": (
        True,
        ("trainer=d3po", "penalty=none", *PATCHY, "plan.iterations=3", "trainer.updates=3", "trainer.batch=2"),
    ),
    "rho": (True, ("policy=frozen", "initial=conditional", "trainer=ppo", *PATCHY, "plan.iterations=3")),
}
# the same with weights that are cut
SHARDED = {name: SCENARIOS[name] for name in ("fp32", "passes", "grpo", "rwr", "failing", "draft")}
SHARDED["guided"] = (
    True,
    (*JOINT, *PATCHY, "policy=lora", "policy.guidance=2.0", "policy.checkpoint_activations=true", "plan.pass_size=3",
     "plan.iterations=2"),
)  # fmt: skip
# two iterations, and two more with other processes
RESUMED = (*JOINT, BRIGHT, "trainer.minibatches=2", "optimizer.warmup=3")


class Stored(Callback):
    """Counts the numbers that this process stores of the network, when training ends, before it is put together."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        weights = [p for p in pl_module.policy.denoiser.parameters() if p.requires_grad]
        moments = [s["exp_avg"] for s in trainer.optimizers[0].state.values()] * 2
        self.found = {
            "all": sum(p.numel() for p in weights),
            "weights": sum(local(p).numel() for p in weights),
            "moments": sum(local(x).numel() for x in moments if x.ndim),
            "whole": sum(not is_cut(m.network) for m in pl_module.policy.modules() if isinstance(m, NetworkDenoiser)),
            "pass_size": pl_module.world.capacity.pass_size,
        }


def main(folder: Path, runtime: str) -> None:
    """Results of the first process as <folder>/<name>.pt. With weights that are cut what one process began in
    <folder>/one_first is gone on with too."""
    for name, (double, overrides) in (SCENARIOS if runtime == "ddp_cpu" else SHARDED).items():
        module = fitted(folder / name, f"runtime={runtime}", *overrides, double=double)
        if module.global_rank == 0:
            kept = {"gradients": module.gradients, "weights": module.weights[-1], "history": module.history}
            torch.save(kept, folder / f"{name}.pt")
    if runtime == "fsdp_cpu":
        stored = Stored()
        first, cfg = recorder(f"runtime={runtime}", *RESUMED, "plan.iterations=2", double=True)
        first.world.capacity.pass_size = 1  # of before the weights were cut: not that of after
        fit(first, cfg, folder / "two_first", [stored])
        if first.global_rank == 0:
            torch.save(stored.found, folder / "parts.pt")
        continued(folder / "one_first", 2, f"runtime={runtime}", *RESUMED, "plan.iterations=4")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
