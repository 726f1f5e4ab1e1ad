"""task=certify: training algorithms on problems whose optimum is known, held against it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from pgdlab.certificates.cells import CELL, cell, suite_of
from pgdlab.certificates.certificate import Suite, Tables, row
from pgdlab.certificates.steering import HEAD, MORE, Steering, certify, rates, steering_table
from pgdlab.certificates.tables import certificate_picture, certificate_table, line, markdown, tabular_table
from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, short, write, write_json
from pgdlab.config.schema import instantiate
from pgdlab.oracle.tables.tabular import certify_tables
from pgdlab.training.progress import Working

READS = ("certificate",)
RESUMES = ()
INSTEAD = "the certificate's suite says what is trained"


def main(cfg: Config) -> None:
    """On finite MDPs, of guidances, or on points, as the config's certificate says (the affine suite where it says nothing)."""
    if cfg.nodes["certificate"] is None:
        cfg = cfg.with_nodes(certificate=compose(["certificate=affine"]).nodes["certificate"])
    suite = instantiate(cfg.nodes["certificate"], "certificate")
    if isinstance(suite, Tables):
        tables(cfg, suite)
    elif isinstance(suite, Steering):
        steering(cfg, suite)
    else:
        points(cfg, suite_of(cfg))


def points(cfg: Config, suite: Suite) -> None:
    """Runs the suite's cells one after another; `resume=runs/<name>` goes on after the last finished one."""
    folder = begun(cfg, suite.name)
    console, rows = Console(stderr=True, highlight=False), []
    cells = len(suite.problems) * len(suite.algorithms)
    for problem, base in suite.problems.items():
        for algorithm, more in suite.algorithms.items():
            done = cell(suite, base, more, folder / problem / algorithm, suite.law(algorithm))
            rows.append(row(problem, algorithm, done))
            console.print(f"{len(rows)}/{cells}  {line(rows[-1])}", soft_wrap=True)
    write(certificate_table(rows), folder / "certificate.md")
    write_json({"rows": [dataclasses.asdict(r) for r in rows]}, folder / CELL)
    certificate_picture(rows, folder / "certificate.png")
    at = short(folder)
    print(f"look at {at / 'certificate.md'} and {at / 'certificate.png'}; figures in {at / CELL}")


def tables(cfg: Config, suite: Tables) -> None:
    """The certificate on finite MDPs, about half a minute."""
    folder = begun(cfg, suite.name)
    rows = certify_tables(suite.seed)
    write(tabular_table(rows), folder / "certificate.md")
    write_json({"rows": [dataclasses.asdict(r) for r in rows]}, folder / CELL)
    print(tabular_table(rows) + f"look at {short(folder) / 'certificate.md'}; figures in {short(folder) / CELL}")


def steering(cfg: Config, suite: Steering) -> None:
    """Ways of steering without training, each against its own law."""
    folder = begun(cfg, suite.name)
    cells, known = [], {}
    with Working() as working:
        for cell, rate in certify(suite, folder):
            cells.append(cell)
            known[cell.problem] = rate
            working.say(f"{len(cells)} cells; {cell.problem}: {cell.method}, n {cell.n}, E[r] {cell.reward:.3f}")
    head = ["problem", "method", *(f"n {n}: n x bias" for n in (*suite.particles, *MORE)), "leading term"]
    text = markdown(HEAD, steering_table(cells)) + "\n" + markdown(head, rates(cells, known))
    write(text, folder / "certificate.md")
    rows, exact = (
        [dataclasses.asdict(cell) for cell in cells],
        {p: dataclasses.asdict(rate) for p, rate in known.items()},
    )
    write_json({"rows": rows, "rates": exact}, folder / CELL)
    print(text + f"look at {short(folder) / 'certificate.md'}; figures in {short(folder) / CELL}")


def begun(cfg: Config, name: str) -> Path:
    """The run folder, with its config."""
    cfg = dataclasses.replace(cfg, name=name)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    return folder
