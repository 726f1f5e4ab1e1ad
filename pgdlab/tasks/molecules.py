"""task=molecules: prepares QM9 and writes what the package keeps of it: the training index and a test sample."""

from __future__ import annotations

from pgdlab.config.configuration import Config
from pgdlab.molecules import known

READS = ()


def main(cfg: Config) -> None:
    """Writes both files into the package's assets. Raises ValueError without the data package."""
    known.write()
    print(f"{len(known.training_set().keys):,} training molecules and {len(known.test_sample()):,} test molecules kept")
