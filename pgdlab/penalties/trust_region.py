"""A trust region: how far one iteration may move the policy."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.penalties.base import Penalty


class TrustRegion(Penalty):
    """Steps whose exact KL(pi_h || pi_h^old) at their state is above `limit` nats take no part in the surrogate, whatever
    the sign of their advantage; old is the policy that sampled them. asymmetric: of those, the ones alone whose ratio the
    surrogate would move further from 1 (w > 1 and A > 0, or w < 1 and A < 0), so that the way back stays open (Flow-DPPO:
    Ping et al. 2026, arXiv:2606.11025, whose limit is 1e-5 a dimension, and which has it in the place of the clip).

    The condition is that of trust-region PPO (Wang et al. 2019, "Truly proximal policy optimization", arXiv:1903.07940,
    sec. 4.2), which the ratio's clip only stands in for. It acts from the second update of a rollout on. What other
    penalties differentiate goes on for masked steps, and rho is not masked.
    """

    def __init__(self, *, limit: float = 0.05, asymmetric: bool = False) -> None:
        super().__init__()
        if limit <= 0:
            raise ValueError(f"limit is {limit}; it must be above 0, in nats of one step")
        self.limit, self.asymmetric = limit, asymmetric

    def needs_old(self) -> bool:
        return True

    def trusted(self, kl: Float[Tensor, " P"], onward: Bool[Tensor, " P"]) -> Bool[Tensor, " P"]:
        return (kl <= self.limit) | ~onward if self.asymmetric else kl <= self.limit
