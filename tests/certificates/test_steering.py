"""The certificate of ways of steering: its problems are those of the tests, methods are held against their own laws, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.certificates import steering
from pgdlab.certificates.steering import (
    PROBLEMS,
    Cell,
    Method,
    Rate,
    Steering,
    exact_laws,
    measured,
    rates,
    steering_table,
)  # fmt: skip
from pgdlab.guidance.best_of_n import BestOfN
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from pgdlab.tasks import certify
from tests.guidance.lines import PROBLEMS as LINES


@pytest.mark.parametrize(("name", "line"), zip(PROBLEMS, LINES.values(), strict=True), ids=LINES)
def test_the_problems_are_those_of_the_tests(name: str, line: Any) -> None:
    one = PROBLEMS[name]()
    x = torch.tensor([[-1.3], [0.2], [1.4], [2.5]], dtype=torch.float64)
    expected = {"linear": x[:, 0], "quadratic": -((x[:, 0] - line.b) ** 2), "indicator": (x[:, 0] > line.b).double()}
    torch.testing.assert_close(one.value(x), expected[line.kind])
    assert (one.mixture, one.lam) == (line.mixture, line.lam)


def test_methods_are_held_against_their_own_law() -> None:
    """GI: T_full has .8414, the attainable law .744 by another program. Best of 16 is 1 - (1 - .0345)^16; soft best-of-n of 16
    has .406, particles with r(x0hat) .486."""
    line, suite = PROBLEMS["gauss, indicator"](), Steering(draws=8192)
    known, leading = exact_laws(line)
    assert known["T_full"].expected == pytest.approx(0.8414, abs=1e-3)
    assert known["attainable"].expected == pytest.approx(0.744, abs=3e-3)
    ways = [
        Method("best_of_n", 16, "best of n", BestOfN()), Method("soft_best_of_n", 16, "T_full", SoftBestOfN(lam=0.2)),
        Method("smc", 16, "T_full", SMC(lam=0.2, scored="all", particles=16)),
    ]  # fmt: skip
    best, soft, particles = (measured(suite, "GI", line, method, known) for method in ways)
    assert best.exact == pytest.approx(1 - (1 - 0.0345) ** 16, abs=2e-3)
    assert best.bias == pytest.approx(0, abs=2 * best.half)
    assert best.kl is not None
    assert best.kl < 0.15  # 512 draws in 64 bins: 63 / 1024
    assert soft.reward == pytest.approx(0.406, abs=2 * soft.half)
    assert particles.reward == pytest.approx(0.486, abs=2 * particles.half)
    assert leading < 0  # too low a reward


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem, two methods."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steering, "PROBLEMS", {"gauss, linear": PROBLEMS["gauss, linear"]})
    monkeypatch.setattr(steering, "PATHS", 64)
    monkeypatch.setattr(certify, "MORE", (256,))
    monkeypatch.setattr(steering, "MORE", (256,))
    every = steering.methods
    some = ("soft_best_of_n", "smc, learned value", "value, next")
    monkeypatch.setattr(steering, "methods", lambda *given: (m for m in every(*given) if m.name in some))
    from pgdlab.config.compose import compose

    certify.main(
        compose(["task=certify", "certificate=steering", "certificate.draws=400", "certificate.particles=[4,8]"])
    )
    folder = tmp_path / "runs" / "certify-steering"
    found = json.loads((folder / "certificate.json").read_text())
    assert [(row["method"], row["n"], row["runs"]) for row in found["rows"]] == [
        ("soft_best_of_n", 4, 100), ("smc, learned value", 4, 100), ("soft_best_of_n", 8, 50),
        ("smc, learned value", 8, 50), ("value, next", 1, 200),
    ]  # fmt: skip
    text = (folder / "certificate.md").read_text()
    assert "| gauss, linear | value, next | 1 | attainable |" in text
    assert "leading term" in text
    assert found["rates"]["gauss, linear"]["each"].keys() == {"4", "8", "256"}
    assert (folder / "gauss-linear" / "value" / "model.safetensors").is_file()


def test_cells_to_read() -> None:
    cell = Cell("p", "soft_best_of_n", 4, "T_full", 10, 0.5, 0.01, 0.75, 0.1, 0.02, 0.2)
    lost = Cell("p", "search", 4, "none", 10, 0.5, 0.01, None, None, None, None)
    assert steering_table([cell, lost]) == [
        ["p", "soft_best_of_n", "4", "T_full", "0.500 ± 0.010", "0.750", "-0.250", "0.100 ± 0.020", "0.200"],
        ["p", "search", "4", "none", "0.500 ± 0.010", "-", "-", "-", "-"],
    ]
    exactly, own, particles = rates([cell], {"p": Rate({4: -1.1, 256: -1.4}, -1.5)})
    assert exactly == ["p", "soft_best_of_n, exactly", "-1.10", "-1.40", "-1.50"]
    assert own == ["p", "soft_best_of_n", "-1.00 ± 0.04", "-", "-"]
    assert particles == ["p", "smc", "-", "-", "-"]


@pytest.mark.parametrize(
    ("given", "match"), [({"particles": (1,)}, "2 or more"), ({"draws": 100}, "20 populations of 64")]
)
def test_refusals(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Steering(**given)
