"""A trust region: how far one iteration may move the policy."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from pgdlab.penalties.base import Penalty


class TrustRegion(Penalty):
    """Steps whose exact KL(pi_h || pi_h^old) at their state is above `limit` nats take no part in the surrogate, whatever
    the sign of their advantage; old is the policy that sampled them.

    The condition is that of trust-region PPO (Wang et al. 2019, "Truly proximal policy optimization", arXiv:1903.07940,
    sec. 4.2), which the ratio's clip only stands in for. It acts from the second update of a rollout on. What other
    penalties differentiate goes on for masked steps, and rho is not masked.
    """

    def __init__(self, *, limit: float = 0.05) -> None:
        super().__init__()
        if limit <= 0:
            raise ValueError(f"limit is {limit}; it must be above 0, in nats of one step")
        self.limit = limit

    def needs_old(self) -> bool:
        return True

    def trusted(self, kl: Float[Tensor, " P"]) -> Bool[Tensor, " P"]:
        return kl <= self.limit
