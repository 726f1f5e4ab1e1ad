"""A table of samples with their rewards, in a file: rows (sample, reward, cond)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.runs import write_bytes
from pgdlab.domains.base import Domain

COLUMNS = ("sample", "reward", "cond")


@dataclass(frozen=True)
class Table:
    """Samples as the policy makes them, not decoded, their rewards, and the numbers of their conditions."""

    sample: Float[Tensor, "N *D"]
    reward: Float[Tensor, " N"]
    cond: Int[Tensor, " N"]

    def write(self, path: Path) -> None:
        """As safetensors, which nothing is executed to read."""
        from safetensors.torch import save

        write_bytes(save({name: getattr(self, name).detach().cpu().contiguous() for name in COLUMNS}), path)

    @classmethod
    def read(cls, path: Path) -> Table:
        """Raises ValueError where the file is no table, or some of its numbers are not finite."""
        try:
            stat = path.stat()
        except OSError as error:
            raise ValueError(f"the table {path} cannot be read: {error.strerror}") from error
        return loaded(path.resolve(), stat.st_mtime_ns, stat.st_size)

    def require(self, domain: Domain, path: Path) -> None:
        """Raises ValueError where the rows are not samples of the domain under its conditions."""
        shape, last = tuple(self.sample.shape[1:]), domain.conditioning.unconditional
        if shape != tuple(domain.space.shape):
            raise ValueError(
                f"the samples in {path} have shape {shape}, those of domain={domain.name} {tuple(domain.space.shape)}: take "
                "a table of this domain"
            )
        wrong = self.cond[(self.cond < 0) | (self.cond > last)]
        if len(wrong):
            raise ValueError(f"{path} has the condition {int(wrong[0])}; here they are numbers from 0 to {last}")


@functools.lru_cache(maxsize=1)
def loaded(path: Path, changed: int, size: int) -> Table:
    """The table in a file as it was when it was last changed: every iteration asks for it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        columns = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no table: {error}. task=table writes one, in the format safetensors") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; a table has {', '.join(COLUMNS)}, a row for each sample")
    sample, reward, cond = (columns[name] for name in COLUMNS)
    rows = len(sample) if sample.ndim else 0
    if rows < 2 or reward.shape != (rows,) or cond.shape != (rows,) or cond.is_floating_point():
        raise ValueError(
            f"{path} has samples {tuple(sample.shape)}, rewards {tuple(reward.shape)} and conditions {tuple(cond.shape)} "
            f"({cond.dtype}); it takes two rows or more, a reward and a whole number for each"
        )
    for name, x in (("reward", reward), ("sample", sample)):
        if not x.isfinite().all():
            raise ValueError(f"{path} has a {name} that is not finite: leave such rows out")
    return Table(sample, reward.double(), cond.long())
