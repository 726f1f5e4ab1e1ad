"""task=classifiers: fits a domain's three classifiers (reward, held-out, features) and its reference features."""

from __future__ import annotations

from pgdlab.config.configuration import Config
from pgdlab.domains.base import Domain
from pgdlab.domains.image import ImageDomain
from pgdlab.images.classifiers import fit_classifiers, folder_of

READS = ("experiment", "domain", "seed")


def main(cfg: Config) -> None:
    """Writes into domain.classifiers, where the rewards and metrics of the domain read them."""
    if cfg.resume:
        raise ValueError("task=classifiers fits a domain's classifiers, not a run: leave resume out")
    domain = cfg.make(Domain, "domain")
    if not isinstance(domain, ImageDomain):
        raise ValueError(f"domain {domain.name} has no image classifiers; digits, fashion and folder have")
    if len(domain.classes) < 2:
        raise ValueError(
            f"domain {domain.name} has no classes here: classifiers need a subfolder for each of at least two"
        )
    domain.data("train")  # raises, before a folder is made, where the data are not there
    print(f"writing into {folder_of(domain.classifiers)}, over what is there", flush=True)
    accuracies = fit_classifiers(domain, seed=cfg.seed)
    domain.write_reference()
    for kind, accuracy in accuracies.items():
        print(f"{kind:>9}: test accuracy {accuracy:.3f}")
