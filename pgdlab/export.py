"""Export: a denoiser's weights in a folder, with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.policy import Policy
from pgdlab.runs import COMMAND


def origin(cfg: Any, policy: Policy) -> dict[str, Any]:
    """The sampler that a run trained and measured under, and what was tuned: a network under another sampler, or with
    another initial distribution, is another policy."""
    nodes = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["policy", "initial", "plan"]), resolve=True)
    assert isinstance(nodes, dict)
    tuned = {"tuning": nodes["policy"].get("tuning"), "initial": nodes["initial"], "steps": nodes["plan"]["steps"]}
    return {
        "sampler": {key: nodes["policy"].get(key) for key in ("kernel", "steps", "guidance")},
        "tuned": tuned | {"stochastic_steps": len(policy.stochastic_steps)},
    }


def write_base(denoiser: Denoiser, folder: Path, facts: dict[str, Any]) -> None:
    """Writes the weights, as Denoiser.save does, and README.md into a folder of the run's."""
    loading = denoiser.save(folder)
    card(folder, facts, loading)


def card(folder: Path, facts: dict[str, Any], loading: str) -> None:
    """README.md: how it was made, how good it is, how to load it."""
    made = folder.parent / COMMAND
    command = made.read_text().strip() if made.is_file() else "(the command was not kept)"
    lines = [f"# {folder.resolve().parent.name}", "", "Made with pgdlab by", "", f"    {command}", "", "```json"]
    lines += [json.dumps(facts, indent=2), "```", ""]
    lines += ["It was made for `sampler`; under another it is another policy.", "", "Load it with", "", loading, ""]
    (folder / "README.md").write_text("\n".join(lines))
