"""task=eta_table: the share of the tilt reached by denoiser, initial noise and both, over eta: oracle and training."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from pgdlab.certificates.cells import cell, suite_of
from pgdlab.certificates.certificate import Share, Suite
from pgdlab.certificates.tables import eta_picture, eta_table, share_line
from pgdlab.certificates.truth import ideal_gain
from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, short, write, write_json
from pgdlab.training.build import build_world

READS = ("experiment", "certificate", "name")
RESUMES = ()
INSTEAD = "the certificate's suite says what is trained"


def main(cfg: Config) -> None:
    """Trains every cell of the suite (problems: etas, algorithms: what is tuned), and sets it beside the oracle."""
    suite: Suite = suite_of(cfg)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    console, shares = Console(stderr=True, highlight=False), []
    for eta, base in suite.problems.items():
        ideal = ideal_gain(build_world(compose([*base, *suite.algorithms["initial"]])))
        for tuned, more in suite.algorithms.items():
            shares.append(Share.of(eta, tuned, cell(suite, base, more, folder / eta / tuned), ideal))
            console.print(share_line(shares[-1]), soft_wrap=True)
    write(eta_table(shares), folder / "eta_table.md")
    write_json({"shares": [dataclasses.asdict(s) for s in shares]}, folder / "eta_table.json")
    eta_picture(shares, folder / "eta_table.png")
    print(f"look at {short(folder) / 'eta_table.md'} and {short(folder) / 'eta_table.png'}")
