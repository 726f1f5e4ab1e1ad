"""Do trajectories that share a prefix (BranchGRPO, TreeGRPO) give a better gradient? Error at equal queries, and per row.

A Gaussian on a line, ten steps, r = -2 (x - 1)^2, 16 rewards an estimate. What is estimated is the gradient of E[r] in the mean
of each step; the error is in units of the step's std, so that the last step does not decide alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.oracle.linear_gaussian import AffineChain, affine_chain
from pgdlab.training.build import build_world

LEAVES, TRIALS = 16, 4000


def exact(chain: AffineChain) -> Tensor:
    """E[r'(s_H)] = -4 E[s_H - 1] = 4 (the base's mean is 0), carried back through the means."""
    after, out = torch.tensor(4.0, dtype=torch.float64), []
    for h in reversed(range(len(chain.std))):
        out.insert(0, after)
        after = after * chain.gain[0, h, 0, 0]
    return torch.stack(out)


def estimate(chain: AffineChain, split: tuple[int, ...], g: torch.Generator) -> tuple[Tensor, int]:
    """Gradients (trials, H), and network rows. split: the steps at which every trajectory becomes two; none for LEAVES of them
    from the start. An action's return is the mean of the leaves below it, less that of its siblings, or of all others."""
    width = 1 if split else LEAVES
    s, noises, rows = torch.randn(TRIALS, width, generator=g, dtype=torch.float64), [], 0
    for h, std in enumerate(chain.std):
        rows += s.shape[1]
        s = s.repeat_interleave(2, 1) if h in split else s
        noises.append(torch.randn(s.shape, generator=g, dtype=torch.float64))
        s = chain.gain[0, h, 0, 0] * s + chain.shift[0, h, 0] + std * noises[-1]
    reward, out = -2 * (s - 1).square(), []
    for h, z in enumerate(noises):
        mean = reward.reshape(TRIALS, z.shape[1], -1).mean(2)
        if h in split:
            pair = mean.reshape(TRIALS, -1, 2)
            advantage = (pair - pair.flip(2)).reshape(mean.shape)
        else:
            advantage = (mean - mean.mean(1, keepdim=True)) * mean.shape[1] / max(mean.shape[1] - 1, 1)
        out.append((advantage * z).mean(1) / chain.std[h])
    return torch.stack(out, 1), rows


def main() -> None:
    world = build_world(compose(["experiment=oracle/quadratic", "domain.replicas=1"]))
    chain, g = affine_chain(world.reference, torch.zeros(1, dtype=torch.long)), torch.Generator().manual_seed(0)
    for split in ((), (0, 2, 4, 6), (0, 1, 2, 3), (6, 7, 8, 9)):
        found, rows = estimate(chain, split, g)
        error = ((found - exact(chain)) * chain.std).square().sum(1).mean().item()
        bias = ((found.mean(0) - exact(chain)) * chain.std).abs().max().item()
        print(f"split at {split}: {LEAVES} queries, {rows} network rows, squared error {error:.1f}, error x rows "
              f"{error * rows:,.0f}, largest bias {bias:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
