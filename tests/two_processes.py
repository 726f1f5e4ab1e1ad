"""Fits every scenario of test_processes; started by it, and once more by Lightning for the second process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.worlds import BRIGHT, continued, fitted

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
    "rho": (True, ("policy=frozen", "initial=conditional", "trainer=ppo", *PATCHY, "plan.iterations=3")),
}
# the same with weights that are cut; unequal numbers of passes in the processes, and one that has none, are among them
SHARDED = ("fp32", "passes", "grpo", "rwr", "failing", "draft")
SCENARIOS |= {f"sharded_{name}": (SCENARIOS[name][0], (*SCENARIOS[name][1], "runtime=fsdp_cpu")) for name in SHARDED}
SCENARIOS["sharded_guided"] = (
    True,
    (*JOINT, *PATCHY, "policy=lora", "policy.guidance=2.0", "policy.checkpoint_activations=true", "plan.pass_size=3",
     "plan.iterations=2", "runtime=fsdp_cpu"),
)  # fmt: skip
# two iterations, and two more with other processes
RESUMED = (*JOINT, BRIGHT, "trainer.minibatches=2", "optimizer.warmup=3")


def main(folder: Path) -> None:
    """Results of the first process as <folder>/<name>.pt. What one process began in <folder>/one_first is gone on with."""
    for name, (double, overrides) in SCENARIOS.items():
        module = fitted(folder / name, "runtime=ddp_cpu", *overrides, double=double)
        if module.global_rank == 0:
            kept = {"gradients": module.gradients, "weights": module.weights[-1], "history": module.history}
            torch.save(kept, folder / f"{name}.pt")
    fitted(folder / "two_first", "runtime=fsdp_cpu", *RESUMED, "plan.iterations=2", double=True)
    continued(folder / "one_first", 2, "runtime=fsdp_cpu", *RESUMED, "plan.iterations=4")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
