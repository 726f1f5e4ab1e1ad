"""The linear-quadratic regulator with the exact denoiser of its expert as the base, and what its optimum is then."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pgdlab.config.compose import compose, instantiate
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.domains.control import Control
from pgdlab.functional.gaussian import expand
from pgdlab.oracle.regulator import matrix
from pgdlab.training.build import build_world
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule


class ExpertDenoiser(Denoiser):
    """E[x0 | x_t, o] of normalised actions x0 ~ N(m(o), s^2): the expert's, without a network. A weight of 1 can be trained."""

    supports_unconditional = False

    def __init__(self, domain: Control) -> None:
        super().__init__()
        self.domain, self.schedule = domain, domain.build().schedule
        self.s = domain.environment.expert_noise / float(domain.decoder.spread)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        gain = matrix(self.domain.environment.expert_gain)
        action = self.domain.conditioning.table[cond][:, : gain.shape[1]].double() @ gain.T
        m = self.domain.decoder.encode(action[:, None]).to(x)
        return m + self.s**2 * alpha * (x - alpha * m) / (alpha**2 * self.s**2 + sigma**2)

    def frozen(self) -> Denoiser:
        return self


def run(folder: Path, *words: str) -> SteeringModule:
    """A module after its run on that base."""
    cfg = compose(list(words))
    domain = instantiate(cfg.nodes["domain"])
    world = build_world(cfg, ExpertDenoiser(domain))
    world.policy.denoiser.domain = world.domain
    module = SteeringModule(world, instantiate(cfg.nodes["trainer"]), instantiate(cfg.nodes["optimizer"]))
    fit(module, cfg, folder)
    return module
