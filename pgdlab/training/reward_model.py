"""Fits scores to pairs, and says how far they can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from pgdlab.preferences.ensemble import Ensemble
from pgdlab.preferences.pairs import Pairs
from pgdlab.preferences.public import Layout
from pgdlab.training.fit import make_trainer

LOOKS = 40  # at the pairs outside a member's bootstrap, while it is fitted
BINS = 10  # of the reliability table, of the confidence in [1/2, 1]


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """pairs: files of pairs, read as `layout`: `pairs` (task=annotate), `image_reward_db` or `pick_a_pic`. members: of the
    ensemble, each fitted to a bootstrap of the pairs from its own first weights, and kept as it was when it explained the pairs
    outside its bootstrap best. updates, batch (pairs of a member), lr (falls to 0 linearly), decay: of AdamW. held_out: the share
    of the pairs, about, that judge it; they have no sample in common with the others. conditional: whether a score of its own is
    learned for every condition."""

    pairs: tuple[str, ...] = ("pairs.jsonl",)
    layout: Layout = "pairs"
    members: int = 5
    updates: int = 400
    batch: int = 64
    lr: float = 2e-3
    decay: float = 1e-2
    held_out: float = 0.2
    conditional: bool = False

    def __post_init__(self) -> None:
        for name in ("members", "updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be a share of the pairs, above 0 and below 1")
        if not self.pairs:
            raise ValueError("pairs names no file")


class Data(NamedTuple):
    """Encoded samples, their conditions, and pairs of them with the first one's share of the vote."""

    x: Float[Tensor, "N *F"]
    cond: Int[Tensor, " N"]
    rows: Int[Tensor, "P 2"]
    share: Float[Tensor, " P"]


class Split(NamedTuple):
    """Which pairs are fitted and which judge. In neither are those with a sample on each side."""

    train: Int[Tensor, " T"]
    held_out: Int[Tensor, " H"]


def clusters(rows: Int[Tensor, "P 2"], count: int) -> Int[Tensor, " N"]:
    """The number of the cluster of each of `count` samples: those that a chain of pairs connects are in one."""
    parent = list(range(count))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in rows.tolist():
        parent[top(a)] = top(b)
    return torch.tensor([top(i) for i in range(count)]).unique(return_inverse=True)[1]


def split(rows: Int[Tensor, "P 2"], share: float, seed: int) -> Split:
    """By sample: no sample is on both sides. Clusters of samples go to a side together, so that no pair is lost; where one
    cluster has over half of the pairs samples go by themselves, and the pairs between the sides are left out. Raises ValueError
    where a side would be empty."""
    unit = clusters(rows, int(rows.max()) + 1)
    of_pair = torch.bincount(unit[rows[:, 0]])
    if of_pair.max() * 2 > len(rows):
        unit, share = torch.arange(len(unit)), share**0.5  # a pair is judged by where both of its samples are
    order = torch.randperm(int(unit.max()) + 1, generator=torch.Generator().manual_seed(seed))
    side = (order < max(1, round(share * len(order))))[unit]
    both, neither = side[rows].all(1), (~side[rows]).all(1)
    found = Split(neither.nonzero()[:, 0], both.nonzero()[:, 0])
    if not (len(found.train) and len(found.held_out)):
        raise ValueError(
            f"{len(rows)} pairs of {len(unit)} samples leave none to fit or none to judge by when no sample may be on both "
            "sides: make more pairs, or set preferences.held_out nearer to a half"
        )
    return found


@dataclass
class Kept:
    """A member as it was when it explained the pairs outside its bootstrap best: loss in nats a pair."""

    outside: Int[Tensor, " O"]
    loss: float = float("inf")
    state: dict[str, Tensor] = field(default_factory=dict)


class BradleyTerry(LightningModule):
    """Minimises -s log sigmoid(r(a) - r(b)) - (1 - s) log sigmoid(r(b) - r(a)), s the share of the vote: 1/2 for a tie. own: the
    bootstrap of each member."""

    def __init__(
        self, ensemble: Ensemble, data: Data, own: Int[Tensor, "M T"], updates: int, lr: float, decay: float
    ) -> None:
        super().__init__()
        self.ensemble, self.data, self.updates, self.lr, self.decay = ensemble, data, updates, lr, decay
        every = own.flatten().unique()
        outside = [every[~torch.isin(every, rows)] for rows in own]
        self.kept = [Kept(rows if len(rows) else every) for rows in outside]

    def on_fit_start(self) -> None:
        self.data = Data(*(part.to(self.device) for part in self.data))
        self.keep()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return torch.stack([self.of(m, rows) for m, rows in zip(self.ensemble.members, batch[0][0], strict=True)]).sum()

    def of(self, member: Any, pairs: Int[Tensor, " B"]) -> Tensor:
        """The mean loss of a member, under the condition of the first of each pair."""
        x, cond, rows, share = self.data
        pair = rows[pairs]
        column = self.ensemble.column(cond[pair[:, 0]])[:, None]
        score = member(x[pair.T.flatten()]).gather(1, torch.cat([column, column]))[:, 0]
        first, second = score.chunk(2)
        return binary_cross_entropy_with_logits(first - second, share[pairs])

    @torch.no_grad()
    def keep(self) -> None:
        """Keeps the members that are better than ever."""
        for member, kept in zip(self.ensemble.members, self.kept, strict=True):
            loss = self.of(member, kept.outside.to(self.device)).item()
            if loss < kept.loss:
                kept.loss, kept.state = loss, {name: x.clone() for name, x in member.state_dict().items()}

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        if (index + 1) % max(1, self.updates // LOOKS) == 0:
            self.keep()

    def on_fit_end(self) -> None:
        for member, kept in zip(self.ensemble.members, self.kept, strict=True):
            member.load_state_dict(kept.state)

    def configure_optimizers(self) -> Any:
        adam = torch.optim.AdamW(self.ensemble.members.parameters(), lr=self.lr, weight_decay=self.decay)
        plan = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: max(0.0, 1 - k / self.updates))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": plan, "interval": "step"}}


def fit(
    pairs: Pairs, x: Float[Tensor, "N *F"], cond: Int[Tensor, " N"], how: RewardModel, *, conditions: int, seed: int,
    runtime: Mapping[str, Any],
) -> tuple[Ensemble, Split]:  # fmt: skip
    """The ensemble, centred on all samples, and what it was fitted on. x, cond: of the samples, in the order of pairs.sources."""
    parts, g = split(pairs.rows, how.held_out, seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ensemble = Ensemble(shape=x.shape[1:], members=how.members, conditions=conditions if how.conditional else 1)
    own = parts.train[torch.randint(len(parts.train), (how.members, len(parts.train)), generator=g)]
    take = torch.randint(own.shape[1], (how.updates, how.members, min(how.batch, own.shape[1])), generator=g)
    loader = DataLoader(TensorDataset(own[torch.arange(how.members)[:, None], take]), batch_size=1)
    data = Data(x, cond, pairs.rows, pairs.share.to(x.dtype))
    trainer = make_trainer(dict(runtime), max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(BradleyTerry(ensemble, data, own, how.updates, how.lr, how.decay), loader)
    ensemble = ensemble.cpu().eval().requires_grad_(False)
    ensemble.centre_on(x, cond)
    return ensemble, parts


@torch.no_grad()
def judged(ensemble: Ensemble, pairs: Pairs, x: Tensor, cond: Tensor, rows: Int[Tensor, " H"]) -> dict[str, Any]:
    """Figures of pairs that were not fitted: docs/preferences.md has their formulas."""
    pair, share = pairs.rows[rows], pairs.share[rows]
    first = cond[pair[:, 0]]
    each = (ensemble(x[pair[:, 0]], first) - ensemble(x[pair[:, 1]], first)).double()
    q = each.mean(0).sigmoid()
    decided = share != 0.5
    sure, right = torch.maximum(q, 1 - q), ((q > 0.5) == (share > 0.5)).double()
    known = ~pairs.probability[rows].isnan()
    samples = pair.unique()
    spread = ensemble(x[samples], cond[samples]).std(0) if len(ensemble.members) > 1 else torch.zeros(1)
    figures: dict[str, Any] = {
        "pairs": len(rows),
        "ties": int((~decided).sum()),
        "accuracy": right[decided].mean().item(),
        "log_loss": torch.nn.functional.binary_cross_entropy(q, share).item(),
        "disagreement": spread.double().mean().item(),
        **reliability(sure[decided], right[decided]),
    }
    if known.all():
        p = pairs.probability[rows]
        figures["best_accuracy"] = torch.maximum(p, 1 - p).mean().item()
        figures["entropy"] = torch.distributions.Bernoulli(p).entropy().mean().item()
    return figures


def reliability(sure: Float[Tensor, " H"], right: Float[Tensor, " H"]) -> dict[str, Any]:
    """ece: sum over bins of the confidence of (share of pairs) |accuracy - mean confidence| (Guo et al. 2017, arXiv:1706.04599,
    eq. 3), and the table itself."""
    place = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    table = [bin_of(sure[place == k], right[place == k]) for k in range(BINS) if bool((place == k).any())]
    ece = sum(row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in table) / max(1, len(sure))
    return {"ece": ece, "reliability": table}


def bin_of(sure: Float[Tensor, " K"], right: Float[Tensor, " K"]) -> dict[str, float]:
    """A row of the table."""
    return {"confidence": sure.mean().item(), "accuracy": right.mean().item(), "pairs": len(sure)}
