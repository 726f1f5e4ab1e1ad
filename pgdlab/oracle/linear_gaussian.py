"""The exact optimum where every step is affine and the reward quadratic: a linear-quadratic regulator.

Dynamics s_{h+1} = F_h s_h + g_h + u_h + std_h z, with the reference's (F, g), and u the change of the mean, whose price is
lambda ||u||^2 / (2 std_h^2) nats. Values are quadratic, V_h(x) = x'P_h x + q_h'x + c_h, and follow backward
(Bertsekas 2017, "Dynamic programming and optimal control", vol. I, sec. 3.1). It is the chain as sampled, not its
continuum. Everything in fp64 and batched over replicas (conditions), R first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy


@dataclass(frozen=True)
class AffineChain:
    """s_0 ~ N(mean, diag(scale)^2); s_{h+1} ~ N(gain_h s_h + shift_h, std_h^2 I)."""

    gain: Float[Tensor, "R H D D"]
    shift: Float[Tensor, "R H D"]
    std: Float[Tensor, " H"]
    mean: Float[Tensor, "R D"]
    scale: Float[Tensor, "R D"]


def affine_chain(policy: Policy, cond: Int[Tensor, " R"]) -> AffineChain:
    """The chain of a policy whose means are affine, read off at the origin and the unit vectors, for every condition;
    differentiable in the policy's weights.

    Raises ValueError where a mean is not affine.
    """
    size, steps = policy.space.shape[0], policy.steps
    g = torch.Generator().manual_seed(0)
    probes = torch.cat([torch.zeros(1, size), torch.eye(size), torch.randn(1, size, generator=g)]).double()
    h = torch.arange(steps).repeat_interleave(len(probes)).repeat(len(cond))
    x = probes.repeat(len(cond) * steps, 1)
    mean = policy(x, h, cond.repeat_interleave(steps * len(probes))).mean
    mean = mean.reshape(len(cond), steps, len(probes), size)
    shift = mean[:, :, 0]
    gain = (mean[:, :, 1:-1] - shift[:, :, None]).mT
    predicted = gain @ probes[-1] + shift
    if not torch.allclose(predicted, mean[:, :, -1], rtol=1e-6, atol=1e-8):
        raise ValueError(
            "the policy's means must be affine in the state; for others there is the grid oracle (1-D and 2-D)"
        )
    rho = policy.initial(cond)
    return AffineChain(gain, shift, policy.std.double(), rho.mean.double(), rho.std.double().expand_as(rho.mean))


@dataclass(frozen=True)
class Problem:
    """max E[b'x - x'Cx] - lam path KL - lam0 KL(rho || rho_pre), x the sample, C symmetric.

    trains: which of the two the optimum may change; the other stays the reference's.
    """

    reference: AffineChain
    slope: Float[Tensor, " D"]
    curvature: Float[Tensor, "D D"]
    lam: float
    lam0: float
    trains_denoiser: bool = True
    trains_initial: bool = False


@dataclass(frozen=True)
class Value:
    """objective = reward - lam path_kl - lam0 initial_kl, each (R,); KLs in nats."""

    objective: Float[Tensor, " R"]
    reward: Float[Tensor, " R"]
    path_kl: Float[Tensor, " R"]
    initial_kl: Float[Tensor, " R"]


@dataclass(frozen=True)
class Quadratic:
    """V(x) = x'Px + q'x + c; P: (R, D, D), q: (R, D), c: (R,)."""

    p: Tensor
    q: Tensor
    c: Tensor

    def __call__(self, x: Float[Tensor, "R *N D"]) -> Float[Tensor, "R *N"]:
        """At points x of every replica."""
        x = x.reshape(len(x), -1, x.shape[-1]) if x.ndim > 2 else x[:, None]
        bent = torch.einsum("rni,rij,rnj->rn", x, self.p, x)
        return (bent + torch.einsum("rni,ri->rn", x, self.q) + self.c[:, None]).squeeze(1)

    def after(self, gain: Tensor, shift: Tensor) -> Quadratic:
        """x -> V(gain x + shift)."""
        pg, ps = self.p @ gain, (self.p @ shift[..., None])[..., 0]
        q = (gain.mT @ (2 * ps + self.q)[..., None])[..., 0]
        return Quadratic(gain.mT @ pg, q, (shift * (ps + self.q)).sum(-1) + self.c)

    def averaged(self, std: Tensor) -> Quadratic:
        """x -> E[V(x + std z)]; std a number or (R, D)."""
        spread = (self.p.diagonal(dim1=-2, dim2=-1) * std**2).sum(-1)
        return replace(self, c=self.c + spread)


@dataclass(frozen=True)
class Optimum:
    """value: of the optimal chain. functions: V_0 .. V_H. ceiling: the objective that any policy, not only a Gaussian
    one of fixed std, could reach (R,)."""

    value: Value
    chain: AffineChain
    functions: tuple[Quadratic, ...]
    ceiling: Float[Tensor, " R"]


def final(problem: Problem) -> Quadratic:
    """V_H: the reward."""
    replicas = len(problem.reference.mean)
    p = -problem.curvature.double().expand(replicas, -1, -1)
    q = problem.slope.double().expand(replicas, -1)
    return Quadratic(p, q, torch.zeros(replicas, dtype=torch.float64))


def improved(value: Quadratic, weight: float | Tensor, what: str) -> tuple[Tensor, Quadratic]:
    """m -> max_y V(y) - sum_d weight_d (y - m)_d^2 / 2, and the matrix and vector (D, D + 1) of the maximiser y(m).

    The condition 2Py + q = w (y - m) gives y = (w - 2P)^-1 (w m + q). Raises ValueError where there is no maximum.
    """
    identity = torch.eye(value.p.shape[-1], dtype=torch.float64)
    w = torch.as_tensor(weight, dtype=torch.float64) * identity
    system = w - 2 * value.p
    if torch.linalg.eigvalsh(system).min() <= 0:
        raise ValueError(f"the optimum is unbounded at {what}: the reward bends up faster than the KL weight holds it")
    best = torch.linalg.solve(system, torch.cat([w.expand_as(system), value.q[..., None]], -1))
    gain, shift = best[..., :-1], best[..., -1]
    moved = value.after(gain, shift)
    # the price -w/2 ||(gain - 1) m + shift||^2, as a quadratic of m
    off = Quadratic(-w.expand_as(system) / 2, torch.zeros_like(value.q), torch.zeros_like(value.c))
    price = off.after(gain - identity, shift)
    return best, Quadratic(moved.p + price.p, moved.q + price.q, moved.c + price.c)


def optimum(problem: Problem) -> Optimum:
    """Backward induction, and the value of the policy that it gives."""
    chain = problem.reference
    gain, shift, functions = chain.gain.clone(), chain.shift.clone(), [final(problem)]
    for h in reversed(range(len(chain.std))):
        std = chain.std[h]
        value = functions[0].averaged(std)  # before the mean moves: E[V(y + std z)] as a function of y
        if problem.trains_denoiser and std > 0:
            best, value = improved(value, problem.lam / std**2, f"step {h}")
            gain[:, h] = best[..., :-1] @ chain.gain[:, h]
            shift[:, h] = (best[..., :-1] @ chain.shift[:, h, :, None])[..., 0] + best[..., -1]
        functions.insert(0, value.after(chain.gain[:, h], chain.shift[:, h]))
    tuned = replace(chain, gain=gain, shift=shift)
    if problem.trains_initial:
        tuned = best_initial(problem, tuned, functions[0])
    return Optimum(evaluate(tuned, problem), tuned, tuple(functions), ceiling(problem))


def best_initial(problem: Problem, chain: AffineChain, value: Quadratic) -> AffineChain:
    """The diagonal Gaussian rho that maximises E_rho[V_0] - lam0 KL(rho || rho_pre), rho_pre the chain's.

    E[V_0] parts in the mean, as for a step, and sum_d P_dd s_d^2: 1 / s_d^2 = 1 / prior_d^2 - 2 P_dd / lam0.
    """
    weight = problem.lam0 / chain.scale**2
    best, _ = improved(value, weight[:, None, :], "the initial distribution")
    mean = (best[..., :-1] @ chain.mean[..., None])[..., 0] + best[..., -1]
    precision = chain.scale**-2 - 2 * value.p.diagonal(dim1=-2, dim2=-1) / problem.lam0
    return replace(chain, mean=mean, scale=precision.rsqrt())


def ceiling(problem: Problem) -> Float[Tensor, " R"]:
    """V_h = lam log E_pre[exp(V_{h+1} / lam)] at every step that may change, then rho the same with lam0.

    As a Gaussian integral: the maximum over the mean as above, and -lam / 2 log det(1 - 2 std^2 P / lam).
    """
    chain, value = problem.reference, final(problem)
    for h in reversed(range(len(chain.std))):
        std = chain.std[h]
        if problem.trains_denoiser and std > 0:
            value = soft(value, problem.lam, std.expand_as(chain.mean), f"step {h}")
        else:
            value = value.averaged(std)
        value = value.after(chain.gain[:, h], chain.shift[:, h])
    value = soft(value, problem.lam0, chain.scale, "rho") if problem.trains_initial else value.averaged(chain.scale)
    return value(chain.mean)


def soft(value: Quadratic, lam: float, std: Float[Tensor, "R D"], what: str) -> Quadratic:
    """m -> lam log E[exp(V(m + std z) / lam)]."""
    _, best = improved(value, (lam / std**2)[:, None, :], what)
    scaled = torch.eye(std.shape[-1], dtype=torch.float64) - 2 * std[..., None] * value.p * std[:, None] / lam
    return replace(best, c=best.c - lam / 2 * torch.linalg.slogdet(scaled)[1])


def moments(chain: AffineChain) -> list[tuple[Float[Tensor, "R D"], Float[Tensor, "R D D"]]]:
    """Mean and covariance of the states s_0 .. s_H."""
    mean, cov = chain.mean, torch.diag_embed(chain.scale**2)
    out, identity = [(mean, cov)], torch.eye(mean.shape[-1], dtype=torch.float64)
    for h, std in enumerate(chain.std):
        gain = chain.gain[:, h]
        mean = (gain @ mean[..., None])[..., 0] + chain.shift[:, h]
        cov = gain @ cov @ gain.mT + std**2 * identity
        out.append((mean, cov))
    return out


def final_kl(chain: AffineChain, reference: AffineChain) -> Float[Tensor, " R"]:
    """KL of the law of the final samples to the reference's, in nats: what is left of the path's when steps are not seen."""
    (mean, cov), (other, wide) = moments(chain)[-1], moments(reference)[-1]
    off, precision = (mean - other)[..., None], torch.linalg.inv(wide)
    ratio = precision @ cov
    trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + (off.mT @ precision @ off)[:, 0, 0] - mean.shape[-1] - torch.linalg.slogdet(ratio)[1])


def values(chain: AffineChain, problem: Problem) -> tuple[Quadratic, ...]:
    """V_0 .. V_H of any affine chain, optimal or not: V_h(x) = -lam KL_h(x) + E[V_{h+1}(s_{h+1}) | s_h = x], V_H = r.

    The target of a critic (credit.actor_critic): the own step's KL is in it, that of rho is not. A step of std 0 has
    no price: in the certified objective it is the reference's.
    """
    reference, out = problem.reference, [final(problem)]
    identity = torch.eye(chain.mean.shape[-1], dtype=torch.float64)
    for h in reversed(range(len(chain.std))):
        std = chain.std[h]
        value = out[0].averaged(std).after(chain.gain[:, h], chain.shift[:, h])
        if std > 0:  # -lam / (2 std^2) ||(gain - gain_pre) x + shift - shift_pre||^2
            w = -problem.lam / (2 * std**2) * identity.expand_as(value.p)
            off = Quadratic(w, torch.zeros_like(value.q), torch.zeros_like(value.c))
            price = off.after(chain.gain[:, h] - reference.gain[:, h], chain.shift[:, h] - reference.shift[:, h])
            value = Quadratic(value.p + price.p, value.q + price.q, value.c + price.c)
        out.insert(0, value)
    return tuple(out)


def evaluate(chain: AffineChain, problem: Problem) -> Value:
    """The exact value of any affine policy: expectations of quadratics of the Gaussian states."""
    reference, states = problem.reference, moments(chain)
    path = torch.zeros_like(chain.mean[:, 0])
    for h, (mean, cov) in enumerate(states[:-1]):
        if chain.std[h] > 0:
            slant, off = chain.gain[:, h] - reference.gain[:, h], chain.shift[:, h] - reference.shift[:, h]
            moved = (slant @ mean[..., None])[..., 0] + off
            spread = (slant @ cov @ slant.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
            path = path + (moved.square().sum(-1) + spread) / (2 * chain.std[h] ** 2)
    mean, cov = states[-1]
    bent = (problem.curvature.double() * (cov + mean[..., None] * mean[:, None])).sum((-2, -1))
    reward = mean @ problem.slope.double() - bent
    ratio = (chain.scale / reference.scale).square()
    shifted = ((chain.mean - reference.mean) / reference.scale).square()
    initial = 0.5 * (shifted + ratio - 1 - ratio.log()).sum(-1)
    return Value(reward - problem.lam * path - problem.lam0 * initial, reward, path, initial)
