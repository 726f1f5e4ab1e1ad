"""task=classifiers: fits a domain's three classifiers (reward, held-out, features) and its reference features."""

from __future__ import annotations

from typing import Any

from pgdlab.compose import instantiate
from pgdlab.domains.image import ImageDomain
from pgdlab.rewards.learned import ASSETS, fit_classifiers


def main(cfg: Any) -> None:
    """Writes into the package's assets, where the rewards and metrics of the domain read them."""
    domain = instantiate(cfg.domain)
    if not isinstance(domain, ImageDomain):
        raise ValueError(f"domain {domain.name} has no image classifiers; digits and fashion have")
    accuracies = fit_classifiers(domain, seed=cfg.seed)
    domain.write_reference()
    for kind, accuracy in accuracies.items():
        print(f"{kind:>9}: test accuracy {accuracy:.3f}")
    print(f"written to {ASSETS / domain.name}")
