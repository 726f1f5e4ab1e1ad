"""The formulas of public code, against what their code does on the same numbers, and the page that shows them."""

from __future__ import annotations

import math
import re

import pytest
import torch

from benchmarks.published import FINDINGS, LAMBDA, Chain, cut_anew, explained, kept, particles, table
from tests.test_docs import DOCS


def test_the_page_shows_what_the_command_prints() -> None:
    """But for the last digit of what is simulated, which another processor may round otherwise."""
    page = (DOCS / "public_implementations.md").read_text()
    cells, shown = (re.findall(r"^\|.*\|$", text, re.MULTILINE) for text in (table(), page))
    assert len(cells) == len(FINDINGS) + 2
    for row, other in zip(cells, shown, strict=True):
        numbers, others = (re.findall(r"(?<![\w.])-?\d[\d.,e+]*", text) for text in (row, other))
        assert re.sub(r"-?\d[\d.,e+]*", "", row) == re.sub(r"-?\d[\d.,e+]*", "", other)
        for one, two in zip(numbers, others, strict=True):
            assert one == two or float(one) == pytest.approx(float(two), abs=0.02)


def test_the_chain_is_the_one_of_the_steering_pages() -> None:
    """Variance .6806 of its samples, of which the tilt by exp(x / .5) moves the mean to 1.3611 (docs/steering.md)."""
    assert Chain(10).variance == pytest.approx(0.6806, abs=1e-4)
    assert Chain(10).variance / LAMBDA == pytest.approx(1.3611, abs=1e-4)


def test_a_cut_drawn_at_every_step_by_autograd() -> None:
    """A network that predicts the noise of N(0, 1), sigma x, unrolled; the mean over 4,000 draws of the cuts, within 4 standard
    errors."""
    chain, draws = Chain(50), 4000
    g = torch.Generator().manual_seed(0)
    on = torch.rand(draws, 50, generator=g, dtype=torch.float64) < kept(50)
    for first in (9, 39):
        moved = torch.zeros(draws, dtype=torch.float64, requires_grad=True)
        x = torch.ones(draws, dtype=torch.float64) + moved
        for h in range(first + 1, 50):
            eps = chain.sigma[h] * x
            eps = torch.where(on[:, h], eps, eps.detach())
            x0 = (x - chain.sigma[h] * eps) / chain.alpha[h]
            x = chain.alpha[h + 1] * x0 + (chain.gain[h] - chain.alpha[h + 1] * chain.alpha[h]) / chain.sigma[h] * eps
        (slope,) = torch.autograd.grad(x.sum(), moved)
        ratio = slope / chain.after[first]
        error = float(ratio.std()) / math.sqrt(draws)
        assert abs(float(ratio.mean()) - float(cut_anew(chain)[first])) < 4 * error


def test_the_minimiser_of_a_pairwise_loss_at_one_time() -> None:
    """log(1 + e^-m) of Gaussian pairs whose label has log odds b (x_w - x_l): the derivative by the network's shift vanishes at
    delta = b / (2 kappa w (1 - k alpha)), kappa = beta / 2 on one coordinate; by quadrature over the pair's difference."""
    chain, beta, b = Chain(10), 0.7, 1.3
    d = torch.linspace(-12, 12, 4001, dtype=torch.float64)  # x_w - x_l before a label: N(0, 2)
    p = torch.exp(-(d**2) / 4)
    for h in (2, 6):
        a, s = chain.alpha[h], chain.sigma[h]
        delta = torch.tensor(b / (beta * float((a / s) ** 2 * (1 - a**2))), dtype=torch.float64, requires_grad=True)
        error = d - a * (a * d)  # (x_w - x0hat_w) - (x_l - x0hat_l), with one noise for both
        logit = beta / 2 * (a / s) ** 2 * 2 * delta * error  # -beta/2 (DELTA l_w - DELTA l_l): squares of delta cancel
        first = torch.sigmoid(b * d)  # P(the first is preferred)
        loss = -(first * torch.nn.functional.logsigmoid(logit) + (1 - first) * torch.nn.functional.logsigmoid(-logit))
        (slope,) = torch.autograd.grad((p * loss).sum() / p.sum(), delta)
        assert abs(float(slope)) < 1e-9
    ratio = explained(chain)
    wanted = [float(1 / (chain.alpha[h] ** 2 * chain.sigma[h] ** 2)) for h in (2, 6)]
    assert float(ratio[2] / ratio[6]) == pytest.approx(wanted[0] / wanted[1])


def test_particles_that_keep_their_weights_are_at_the_tilt() -> None:
    """And n = 1 is the base, whatever the potential; 400 draws a population of 64, whose spread is sqrt(.68 / 400)."""
    assert particles(lambda x: x, "carried", n=64, slots=800) == pytest.approx(1.3611, abs=0.12)
    for potential in ("carried", "difference", "max"):
        assert particles(lambda x: x, potential, n=1, slots=4000) == pytest.approx(0, abs=4 * math.sqrt(0.6806 / 4000))


def test_the_best_of_candidates_at_every_step_in_nats() -> None:
    """KL of the largest of 16 uniforms to one: the integral of 16 u^15 log(16 u^15)."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = 16 * u**15
    nats = 10 * float((density * density.log()).mean())
    assert FINDINGS[-1]().published == f"{nats:.2f}"
