"""What public implementations of trainers compute, recomputed from their formulas on small numbers.

`python -m benchmarks.public_implementations` prints it; docs/public_implementations.md quotes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

F64 = torch.float64


def shown(numbers: Tensor) -> str:
    return ", ".join(f"{x:.2g}" for x in numbers.tolist())


def d3po() -> str:
    """yk7333/d3po, scripts/train.py: -log sigmoid(beta log clamp(w) - beta log clamp(w')), w the ratio of a step to the base,
    clamped to 0.8 and 1.2 there, to 1 -+ config.train.eps (.1) in later versions. beta .1."""
    reach = [0.1 * math.log((1 + eps) / (1 - eps)) for eps in (0.2, 0.1)]
    least = [math.log1p(math.exp(-x)) for x in reach]
    return (
        f"the logit is at most {reach[0]:.3f} and {reach[1]:.3f}: the loss, {math.log(2):.3f} at the start, cannot fall below "
        f"{least[0]:.3f} and {least[1]:.3f}"
    )


def diffusion_kto() -> str:
    """jacklishufan/diffusion-kto, train_kto_sd_v1.5.py: 1 - sigmoid(+-beta (g - z)), z the mean of the means of g of the batch's
    good and bad rows. The expected loss of a sample that is good with probability q, beta 1."""
    s = torch.tensor([-2.0, 0.0, 2.0, 8.0], dtype=F64).sigmoid()
    rows = [f"{shown(q * (1 - s) + (1 - q) * s)} at q {q}" for q in (0.6, 0.4)]
    return f"expected loss at g - z = -2, 0, 2, 8: {' and '.join(rows)}: no minimum, only the sign of q - 1/2 counts"


def dgpo() -> str:
    """Luo-Yihong/DGPO, scripts/train_sd3_dgpo.py: sigmoid(sum_i A_i beta (l_i - l_ref_i) / G), detached, times A_i l_i. Held
    against the gradient of -(G / beta) log sigmoid(-sum_i A_i beta (l_i - l_ref_i) / G)."""
    g = torch.Generator().manual_seed(0)
    loss, ref, a = (torch.randn(24, dtype=F64, generator=g) for _ in range(3))
    told = (100.0 * (a - a.mean()) / a.std() * (loss.requires_grad_() - ref) / 24).sum()
    theirs = torch.sigmoid(told.detach()) * (a - a.mean()) / a.std()
    (ours,) = torch.autograd.grad(-24 / 100.0 * logsigmoid(-told), loss)
    off = (theirs - ours).abs().max()
    return f"the gradient is that of a log sigmoid of the whole group's margin, to {off:.0e}: it never is 0"


def crd() -> str:
    """X-GenGroup/Flow-Factory, src/flow_factory/trainers/crd.py (uniform weights): mean (beta (q_i - mean q) - (A_i - mean A))^2,
    q of the error of the velocity at a time and noise of each sample's own. For r = b x on N(0, 1) the solution of one time moves
    the estimate by b Cov(x0, e) / (2 beta w Var e) = b sigma^2 / (2 beta), the tilt by b P / lambda: their ratio at ten times."""
    sigma = torch.arange(10, 0, -1, dtype=F64) / 10
    ratio = sigma.square() / (sigma.square() / (sigma.square() + (1 - sigma).square()))
    return f"one round over the tilt, sigma 1 to .1, beta lambda / 2: {shown(ratio)}: each time explains the reward by itself"


def alignprop() -> str:
    """huggingface/trl, trl/models/modeling_sd_base.py (removed since): in the loop of the steps, and drawn anew at each, `if i <
    random.randint(..): noise_pred = noise_pred.detach()`. What is left of the gradient of E[s_H] in each of ten steps; and with
    one cut a batch, as in arXiv:2310.03739. N(0, 1), eta 1, s' = u s + v k s: a step that is detached carries u alone."""
    angle = torch.linspace(math.acos(1e-3), math.asin(1e-2), 11, dtype=F64)
    a, s = angle.cos(), angle.sin()
    std = s[1:] / s[:-1] * (1 - (a[:-1] / a[1:]).square()).sqrt()
    u = (s[1:].square() - std.square()).sqrt() / s[:-1]
    vk = (a[1:] - u * a[:-1]) * a[:-1]
    keep = torch.arange(1, 11, dtype=F64) / 11  # P(h >= cut), cut uniform on 0..10

    def after(slope: Tensor) -> Tensor:
        return torch.cat([slope.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=F64)])

    anew = keep * after(u + keep * vk) / after(u + vk)
    return (
        f"left of each step's gradient: {shown(anew)} where the cut is drawn at every step, {shown(keep)} with one cut"
    )


def flow_grpo() -> str:
    """yifan123/flow_grpo, scripts/train_sd3.py: the KL is the mean over D of dm^2 / (2 std_dev_t^2), and a step's std is
    std_dev_t sqrt(-dt) (flow_grpo/diffusers_patch/sd3_sde_with_logprob.py), whose log-probabilities are means over D. D is
    65,536, dt .1."""
    d, dt = 65_536, 0.1
    return f"a step of 1 nat is charged {dt / d:.2e} beta; a clip of 1e-4 of the mean log-ratio is {1e-4 * d:.2f} nats of all"


def diffusion_nft() -> str:
    """DiffusionNFT (arXiv:2509.16117): p l(v+) + (1 - p) l(v-), v+- = v_old +- beta (v - v_old), each over its mean absolute
    error. Its value at v = v_old; and its minimum in one dimension for targets 0, 0, 3 and p = 1: mean 1, median 0."""
    target, v = torch.tensor([0.7, -0.2], dtype=F64), torch.zeros(2, dtype=F64)
    loss = ((v - target).square() / (v - target).abs().mean()).mean()
    values = torch.stack([p * loss + (1 - p) * loss for p in (0.0, 0.5, 1.0)])
    x, pull = torch.linspace(-1, 4, 501, dtype=F64), torch.zeros(501, dtype=F64)
    for x0 in (0.0, 0.0, 3.0):
        pull += 2 * (x - x0) / (x - x0).abs().clamp(min=1e-5)
    best = x[(pull >= 0).nonzero()[0, 0]]
    return f"at v = v_old the loss is {shown(values)} at p = 0, 1/2, 1; the minimum for targets 0, 0, 3 is {best:.1f}"


FINDINGS: tuple[Callable[[], str], ...] = (d3po, diffusion_kto, dgpo, crd, alignprop, flow_grpo, diffusion_nft)


def report() -> str:
    """A line a finding."""
    return "\n".join(f"{finding.__name__}: {finding()}" for finding in FINDINGS)


if __name__ == "__main__":
    print(report())
