"""A domain's own files: after training, evaluation and sampling, in the run folder and in W&B's offline files."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rdkit import Chem
from torch import Tensor

from pgdlab import cli
from pgdlab.domains.digits import Digits
from pgdlab.domains.points import Gaussian
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.report import report
from pgdlab.rollout.trajectory import Samples
from pgdlab.training import weights_and_biases
from tests.training.test_loggers import history, offline
from tests.worlds import POINTS, tiny

FILES = {"properties.png", "molecules.csv", "conformers.sdf"}


def decode(points: Tensor) -> Molecules:
    """A chain for every point, the longer the farther to the right."""
    return Molecules.from_smiles("C" * (5 + int(x.clamp(-4, 4))) for x in points[:, 0])


@dataclass(frozen=True, kw_only=True)
class Chains(Gaussian):
    """Points that are shown as chains of carbon: a domain with files of its own that needs no network."""

    def report(self, groups: dict[str, Samples], folder: Path) -> list[Path]:
        return report(decode, groups, folder)


RUN = (*POINTS, "domain={_target_: tests.molecules.test_report.Chains}", "plan.eval_samples=24")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "molecules.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_reports_of_training_evaluation_and_sampling(offline_run: Path, capsys: Any) -> None:
    assert cli.main([*tiny(*RUN, "logger=wandb"), "name=x"]) == 0
    assert {f.name for f in offline_run.iterdir()} > FILES
    rows = table(offline_run)
    assert [row["policy"] for row in rows] == ["base"] * 24 + ["tuned"] * 24
    assert [int(row["sample"]) for row in rows] == [*range(24), *range(24)]
    assert all(row["smiles"].strip("C") == "" for row in rows)
    found = json.loads((offline_run / "summary.json").read_text())
    mean = sum(float(row["reward"]) for row in rows[24:]) / 24
    assert mean == pytest.approx(found["reward_after"], abs=1e-5)  # rewards are written with six digits
    written = {m.GetProp("_Name") for m in Chem.SDMolSupplier(str(offline_run / "conformers.sdf"))}
    assert written == {row["smiles"] for row in rows[24:]}
    assert f"{len(written)} conformers in " in capsys.readouterr().out

    keys = {key for row in history(offline(offline_run)[0]) for key in row}
    assert {"properties", "molecules", "conformers", "before_after"} <= {key.partition("/")[0] for key in keys}
    kept = next(offline_run.rglob("media/table/*.json"))
    content = json.loads(kept.read_text())
    assert content["columns"][:5] == ["policy", "sample", "cond", "reward", "smiles"]
    assert len(content["data"]) == 48
    assert content["data"][0][0] == "base"
    assert content["data"][3][1] == 3.0  # a number
    assert len(list(offline_run.rglob("media/molecule/*.sdf"))) == len(written)

    for name in FILES:
        (offline_run / name).unlink()
    assert cli.main(["task=evaluate", "resume=runs/x"]) == 0
    assert {f.name for f in offline_run.iterdir()} > FILES
    assert table(offline_run) == rows
    (offline_run / "molecules.csv").unlink()
    assert cli.main(["task=sample", "resume=runs/x"]) == 0
    assert [row["policy"] for row in table(offline_run)] == ["samples"] * 24
    assert [row["smiles"] for row in table(offline_run)] == [row["smiles"] for row in rows[24:]]
    assert not any(row["reward"] for row in table(offline_run))


def test_rewards_that_were_not_measured_are_empty(tmp_path: Path) -> None:
    points = torch.tensor([[0.0], [1.0]])
    group = Samples(points, torch.tensor([9, 8]), torch.tensor([0.25, torch.nan]))
    files = report(decode, {"tuned": group}, tmp_path)
    assert {f.name for f in files} == FILES
    assert [(row["cond"], row["reward"]) for row in table(tmp_path)] == [("9", "0.25"), ("8", "")]


def test_images_have_no_files_of_their_own(tmp_path: Path) -> None:
    assert Digits().report({"x": Samples(torch.zeros(1, 1, 8, 8), torch.tensor([3]))}, tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_wandb_is_given_at_most_sixteen_molecules(tmp_path: Path) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    (tmp_path / "x.sdf").write_text("".join(f"mol {i}{block}$$$$\n" for i in range(20)))
    found = weights_and_biases.media(tmp_path / "x.sdf")
    assert len(found) == weights_and_biases.MOLECULES == 16
    assert found[3]._caption == "mol 3"


def test_cells_of_a_table() -> None:
    assert [weights_and_biases.number(cell) for cell in ("", "1.5", "-2", "CCO", "N")] == [None, 1.5, -2.0, "CCO", "N"]
