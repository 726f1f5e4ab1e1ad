"""What public implementations compute, beside what they should: python -m benchmarks.published

Each row is one formula of a repository, taken as its code states it, on a problem whose right value is exact: samples of N(0, 1)
on a line, denoised in H steps of DDIM (eta 1) by their exact denoiser, E[x0 | x] = alpha x, under the tilt exp(r / lambda).
Particles are simulated (SEED), all else is a closed form. Seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.kernels import Chain as Steps
from pgdlab.diffusion.schedules import Cosine

SEED = 0
LAMBDA = 0.5


class Chain:
    """alpha, sigma: of the H + 1 times. u, v, std: of the H steps. gain: dm/ds of each. after[h]: d s_H / d s_{h+1}."""

    def __init__(self, steps: int) -> None:
        schedule = Cosine()
        made = Steps.of(schedule, DDIM(eta=1.0), steps)
        self.alpha, self.sigma = schedule.alpha(made.times).double(), schedule.sigma(made.times).double()
        self.u, self.v, self.std = made.from_x.double(), made.from_x0.double(), made.std.double()
        self.gain = self.u + self.v * self.alpha[:-1]
        rest = torch.cat([self.gain[1:], torch.ones(1, dtype=torch.float64)])
        self.after = rest.flip(0).cumprod(0).flip(0)

    @property
    def variance(self) -> float:
        """Of the chain's samples: below 1, the data's, at few steps."""
        return float((self.std**2 * self.after**2).sum() + (self.gain[0] * self.after[0]) ** 2)

    def linear(self, shift: Tensor) -> tuple[float, float]:
        """E[x] and E[x] - lambda (path KL) of the policy whose means are shifted, for r = x."""
        mean = float((shift * self.after).sum())
        return mean, mean - LAMBDA * float((shift**2 / (2 * self.std**2)).sum())


class Finding(NamedTuple):
    """A row of the table."""

    where: str
    what: str
    quantity: str
    published: str
    right: str


def averaged_log_prob() -> Finding:
    """The mean over D coordinates in the place of their sum: clip 1e-4 is 1e-4 D nats of the density's log-ratio."""
    return Finding(
        "trl 0.23.1, `modeling_sd_base.py`, `scheduler_step` (after ddpo-pytorch)",
        "the log-probability of a step is averaged over its D coordinates, and the ratio is made of that",
        "log-ratio in nats at which a clip of 1e-4 begins, D = 4x64x64",
        f"{1e-4 * 4 * 64 * 64:.2f}",
        "0.0001",
    )


def kept(steps: int) -> Tensor:
    """P(the network's output at step h is differentiated): a cut drawn uniformly from 0 to H."""
    return torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1)


def cut_anew(chain: Chain) -> Tensor:
    """The expected gradient for the mean of step h over the right one times P(h is kept): where a later output is detached its
    step hands on alpha_{j+1} / alpha_j, since the network predicts the noise."""
    p, detached = kept(len(chain.u)), chain.alpha[1:] / chain.alpha[:-1]
    factor = (p * chain.gain + (1 - p) * detached) / chain.gain
    rest = torch.cat([factor[1:], torch.ones(1, dtype=torch.float64)])
    return rest.flip(0).cumprod(0).flip(0)


def alignprop() -> Finding:
    """AlignProp's random truncation (arXiv:2310.03739) draws one cut for a batch; then no step after a kept one is detached."""
    return Finding(
        "trl 0.23.1, `modeling_sd_base.py`, `pipeline_step_with_grad`",
        "the random truncation of AlignProp is drawn anew at every step",
        "expected gradient of step 1, 10, 20, 40 of 50, over that of one cut a batch",
        ", ".join(f"{x:.3g}" for x in cut_anew(Chain(50))[[0, 9, 19, 39]].tolist()),
        "1, 1, 1, 1",
    )


def adjoint_index() -> Finding:
    """arXiv:2409.08861 in discrete time: the control of step h goes with the adjoint after it (adjoint_matching.md)."""
    chain = Chain(10)
    before = chain.gain * chain.after
    gains = [chain.linear(chain.std**2 / LAMBDA * a)[1] for a in (before, chain.after)]
    return Finding(
        "microsoft/soc-fine-tuning-sd",
        "the control of a step is matched with the adjoint of the state before it",
        "objective E[x] - lambda KL, H = 10",
        *(f"{gain:.3f}" for gain in gains),
    )


def clamped_ratio(beta: float = 0.1, eps: float = 0.1) -> Finding:
    """-log sigmoid(beta log clamp(ratio_w) - beta log clamp(ratio_l)), each ratio in 1 +- eps."""
    most = beta * (math.log(1 + eps) - math.log(1 - eps))
    return Finding(
        "yk7333/d3po, `scripts/train_d3po.py`",
        "both ratios are clamped to 1 +- 0.1 before their logarithms are taken",
        "smallest loss of a pair (0.693 at the start)",
        f"{math.log1p(math.exp(-most)):.3f}",
        "0",
    )


def explained(chain: Chain) -> Tensor:
    """Diffusion-DPO on one time alone, with the noise's error and one noise a pair: the minimiser's x0 shift is
    b / (2 kappa w (1 - k alpha)), w = (alpha / sigma)^2, k alpha = alpha^2; the tilt's is b sigma^2 / lambda. Their ratio, by
    step, over its median: kappa and b drop out."""
    alpha, sigma = chain.alpha[:-1], chain.sigma[:-1]
    ratio = (sigma / alpha) ** 2 / (1 - alpha**2) / sigma**2
    return ratio / ratio.median()


def preference_a_time() -> Finding:
    """Each time alone explains the whole preference (arXiv:2311.12908, eq. 14, at the optimum)."""
    spread = explained(Chain(10))
    return Finding(
        "SalesforceAIResearch/DiffusionDPO, `train.py`",
        "every time alone has to explain the whole preference",
        "shift of x0 at the optimum over the tilt's, largest to smallest of 10 times",
        f"{float(spread.max() / spread.min()):.3g}",
        "1",
    )


Reward = Callable[[Tensor], Tensor]


def particles(reward: Reward, potential: str, n: int = 256, slots: int = 400) -> float:
    """E[r] of one draw of n particles: potentials, weights and resampling as FKD.resample states them with
    adaptive_resampling, from r(x0hat) of every state and r of the sample. `carried`: the weights that were not used up stay,
    and the last ones are."""
    chain, g = Chain(10), torch.Generator().manual_seed(SEED)
    x = torch.randn(slots, n, generator=g, dtype=torch.float64)
    past = torch.zeros_like(x)  # reward_min_value
    log_w = torch.zeros_like(x)
    for h in range(len(chain.u) + 1):
        last = h == len(chain.u)
        now = reward(x if last else chain.alpha[h] * x) / LAMBDA
        now = torch.maximum(now, past) if potential == "max" else now
        gain = now if potential == "max" else now - past
        log_w = log_w + gain if potential == "carried" else gain
        w = (log_w - log_w.amax(1, keepdim=True)).exp()
        few = w.sum(1) ** 2 / (w**2).sum(1) < 0.5 * n
        drawn = torch.multinomial(w, n, replacement=True, generator=g)
        pick = torch.where(
            few[:, None] | torch.full_like(few[:, None], last and potential == "carried"), drawn, torch.arange(n)
        )
        x, past = x.gather(1, pick), now.gather(1, pick)
        log_w = torch.where(few[:, None], 0.0, log_w.gather(1, pick))
        if not last:
            mean = chain.u[h] * x + chain.v[h] * chain.alpha[h] * x
            x = mean + chain.std[h] * torch.randn(slots, n, generator=g, dtype=torch.float64)
    return float(reward(x).mean())


def forgotten_weights() -> Finding:
    """Weights of steps that did not resample are gone, those of the last one too (arXiv:2501.06848)."""
    return Finding(
        "zacharyhorvitz/Fk-Diffusion-Steering, `fkd_class.py`, `adaptive_resampling=True`",
        "weights are forgotten where the population is not resampled, and at the end",
        "E[x] of 256 particles, r = x (exact: 1.361)",
        f"{particles(lambda x: x, 'difference'):.2f}",
        f"{particles(lambda x: x, 'carried'):.2f}",
    )


def largest_reward() -> Finding:
    """max(r, reward_min_value), whose default is 0."""
    return Finding(
        "the same, `potential_type=max`",
        "a reward below `reward_min_value`, which is 0 where it is not set, steers nothing",
        "E[r] of 256 particles, r = -(x - 2)^2 (base: -4.68, exact: -0.47)",
        f"{particles(lambda x: -((x - 2) ** 2), 'max'):.2f}",
        f"{particles(lambda x: -((x - 2) ** 2), 'carried'):.2f}",
    )


def best_of_step(candidates: int = 16, steps: int = 10) -> Finding:
    """The softmax of the scores is followed by its argmax: best-of-M at every step, log M - (M - 1)/M nats each."""
    return Finding(
        "masa-ue/SVDD, `diffusion_gosai.py`",
        "one of M candidates is taken by argmax, after a softmax that changes nothing",
        "path KL in nats, M = 16, H = 10",
        f"{steps * (math.log(candidates) - (candidates - 1) / candidates):.2f}",
        "0 to 18.35, by the temperature",
    )


def charged(d: int = 65_536, dt: float = 0.1) -> Finding:
    """The mean over D of dm^2 / (2 std_dev_t^2), where the step's standard deviation is std_dev_t sqrt(dt)."""
    return Finding(
        "yifan123/flow_grpo, `scripts/train_sd3.py`",
        "the KL of a step is a mean over D, divided by a variance without its time step",
        "price of a step of 1 nat, in beta, D = 65,536, dt = 0.1",
        f"{dt / d:.3g}",
        "1",
    )


def sign_of_a_label(q: float = 0.6) -> Finding:
    """The expected loss q (1 - s) + (1 - q) s, s = sigmoid(beta g - z), is linear in s: no margin has the least of it."""
    g = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    loss = q * (1 - g.sigmoid()) + (1 - q) * g.sigmoid()
    best = float(g[loss.argmin()])
    return Finding(
        "jacklishufan/diffusion-kto, `train_kto_sd_v1.5.py`",
        "the loss of a label is a sigmoid, not the logarithm of one",
        f"log odds of least loss within -50 to 50, for labels that are good with probability {q}",
        f"{best:.2g} (the border)" if best in (-50, 50) else f"{best:.2g}",
        f"{math.log(q / (1 - q)):.3f}",
    )


def absolute_errors() -> Finding:
    """(v - target)^2 / mean |v - target| has the gradient of an absolute error, whose least is at the median: on a line."""
    x, pull = torch.linspace(-1, 4, 501, dtype=torch.float64), torch.zeros(501, dtype=torch.float64)
    for target in (0.0, 0.0, 3.0):
        pull += 2 * (x - target) / (x - target).abs().clamp(min=1e-5)
    return Finding(
        "DiffusionNFT's self-normalised regression (arXiv:2509.16117)",
        "each squared error is divided by its own mean absolute error",
        "where the loss is least, for the targets 0, 0, 3 in one dimension",
        f"{float(x[(pull >= 0).nonzero()[0, 0]]):.1f}",
        "1.0",
    )


FINDINGS = (
    averaged_log_prob, alignprop, adjoint_index, clamped_ratio, preference_a_time, forgotten_weights, largest_reward,
    charged, sign_of_a_label, absolute_errors, best_of_step,
)  # fmt: skip


def table() -> str:
    """In markdown."""
    rows = [
        f"| {f.where} | {f.what} | {f.quantity} | {f.published} | {f.right} |" for f in (find() for find in FINDINGS)
    ]
    return "\n".join(["| where | what | quantity | there | right |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(table())
