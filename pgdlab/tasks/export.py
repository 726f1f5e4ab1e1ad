"""task=export: a run's averaged weights as a folder that plain diffusers (or peft, for adapters) loads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from pgdlab.config.configuration import Config
from pgdlab.config.runs import SUMMARY
from pgdlab.diffusion.files import write_base
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.training.build import build_world, origin
from pgdlab.training.fit import LAST, load


def main(cfg: Config) -> None:
    """Writes <run>/export. A trained initial distribution goes beside as initial.safetensors (its parameters by name)."""
    if not cfg.resume:
        raise ValueError("task=export needs a run: python run.py task=export resume=runs/<name>")
    world, folder = build_world(cfg), Path(cfg.resume)
    load_weights(world.policy, load(folder / LAST)["state_dict"], folder / LAST)
    summary = folder / SUMMARY
    facts = json.loads(summary.read_text()) if summary.is_file() else {"note": "the run was not finished"}
    write_base(world.policy.denoiser, folder / "export", facts | origin(cfg, world.policy))
    if world.policy.trains_initial:
        save_file(
            {k: v.contiguous() for k, v in world.policy.initial.state_dict().items()},
            folder / "export" / "initial.safetensors",
        )
    print(f"exported to {folder / 'export'}; its README.md says how to load it")
