"""The equivariant network: what may change its outputs, and how; and one layer against its equations, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.networks.egnn import EGNN, Layer, pairs_of, waves

SIZES = torch.tensor([1, 2, 7, 4])
REAL = torch.arange(7) < SIZES[:, None]
LOG_SNR = torch.tensor([-6.0, 0.3, 2.0, 8.0], dtype=torch.float64)
CLOSE = {"rtol": 1e-9, "atol": 1e-10}  # fp64, sums of some ten terms in another order through three layers


def network() -> EGNN:
    """Of random weights, large enough that atoms move by some angstrom."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = EGNN(features=5, outputs=5, hidden=16, layers=3).double()
        for layer in net.layers:
            torch.nn.init.normal_(layer.pull[-1].weight)  # type: ignore[union-attr,index]
    return net


def inputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    h, x = (torch.randn(4, 7, k, dtype=torch.float64, generator=g) for k in (5, 3))
    return h * REAL[..., None], 1.5 * x * REAL[..., None]


def orthogonal(sign: int) -> Tensor:
    """A rotation (1) or a rotation with a reflection (-1)."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    return q * q.det().sign() * torch.tensor([sign, 1, 1], dtype=torch.float64)


@torch.no_grad()
def test_atoms_move_and_hear() -> None:
    """Else all that follows would hold of nothing. One atom alone has nothing to move along."""
    out, shift = network()(*inputs(), LOG_SNR, REAL)
    assert shift[1:].norm(dim=-1)[REAL[1:]].min() > 0.01
    assert shift[0].abs().max() == 0
    moved = inputs()[1].clone()
    moved[2, 0, 0] += 0.1
    assert (network()(inputs()[0], moved, LOG_SNR, REAL)[0] - out)[2, 3].abs().max() > 1e-5, "features ignore places"
    assert (network()(*inputs(), LOG_SNR.roll(1), REAL)[0] - out)[2].abs().max() > 1e-3, "the noise level does nothing"


@torch.no_grad()
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_displacements_turn_with_the_molecule(sign: int) -> None:
    (h, x), turn = inputs(), orthogonal(sign)
    assert turn.det().item() == pytest.approx(sign)
    out, shift = network()(h, x, LOG_SNR, REAL)
    turned_out, turned = network()(h, x @ turn.T, LOG_SNR, REAL)
    torch.testing.assert_close(turned_out, out, **CLOSE)
    torch.testing.assert_close(turned, shift @ turn.T, **CLOSE)


@torch.no_grad()
def test_where_the_molecule_is_does_not_matter() -> None:
    h, x = inputs()
    away = (x + torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64)) * REAL[..., None]
    for a, b in zip(network()(h, x, LOG_SNR, REAL), network()(h, away, LOG_SNR, REAL), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@torch.no_grad()
def test_the_order_of_the_atoms_does_not_matter() -> None:
    (h, x), order = inputs(), torch.tensor([4, 2, 6, 0, 1, 5, 3])
    one = [a[2:3] for a in (h, x, LOG_SNR, REAL)]
    other = [one[0][:, order], one[1][:, order], *one[2:]]
    for a, b in zip(network()(*one), network()(*other), strict=True):
        torch.testing.assert_close(a[:, order], b, **CLOSE)


@torch.no_grad()
def test_padding_is_neither_read_nor_written() -> None:
    h, x = inputs()
    out, shift = network()(h, x, LOG_SNR, REAL)
    assert out[~REAL].abs().max() == 0
    assert shift[~REAL].abs().max() == 0
    junk = [a + 100.0 * ~REAL[..., None] for a in (h, x)]
    wide = [torch.nn.functional.pad(a, (0, 0, 0, 3), value=5.0) for a in junk]
    more = network()(*wide, LOG_SNR, torch.nn.functional.pad(REAL, (0, 3)))
    torch.testing.assert_close(more[0][:, :7], out, **CLOSE)
    torch.testing.assert_close(more[1][:, :7], shift, **CLOSE)


@torch.no_grad()
def test_rows_do_not_see_each_other() -> None:
    h, x = inputs()
    together = network()(h, x, LOG_SNR, REAL)
    for i in range(4):
        alone = network()(h[i : i + 1], x[i : i + 1], LOG_SNR[i : i + 1], REAL[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], **CLOSE)


def test_pairs_are_those_of_one_molecule() -> None:
    real = torch.tensor([[True, True, False], [True, True, True]])
    i, j = pairs_of(real)
    expected = {(0, 1), (1, 0), (2, 3), (3, 2), (2, 4), (4, 2), (3, 4), (4, 3)}
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert len(i) == len(expected)


@torch.no_grad()
def test_a_layer_is_its_equations() -> None:
    """Hoogeboom et al. 2022, appendix B, with loops and whole inputs of the first linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = Layer(8, reach=2.0).double()
        torch.nn.init.normal_(layer.pull[-1].weight)
        h, x, origin = (torch.randn(4, k, dtype=torch.float64) for k in (8, 3, 3))

    def first(ends: torch.nn.Linear, distances: torch.nn.Linear, i: int, j: int, at: Tensor) -> Tensor:
        """W [h_i, h_j, waves(d), waves(d0)] + b."""
        apart = torch.cat([waves((at[i] - at[j]).norm()[None])[0] for at in (x, origin)])
        weight = torch.cat([ends.weight[:8], ends.weight[8:], distances.weight], 1)
        return weight @ torch.cat([at[i], at[j], apart]) + ends.bias[:8] + ends.bias[8:]

    new_h, new_x = [], x.clone()
    for i in range(4):
        messages = [layer.message(first(layer.ends, layer.distances, i, j, h)) for j in range(4) if j != i]
        heard = torch.stack([layer.attention(m) * m for m in messages]).sum(0)
        new_h.append(h[i] + layer.node(torch.cat([h[i], heard])))
    at = torch.stack(new_h)
    for i in range(4):
        for j in range(4):
            if i != j:
                line = x[i] - x[j]
                pull = layer.pull(first(layer.moved_ends, layer.moved_distances, i, j, at)).tanh()
                new_x[i] += line / (line.norm() + 1) * 2.0 * pull[0]
    i, j = pairs_of(torch.ones(1, 4, dtype=torch.bool))
    got = layer(h, x, i, j, waves((origin[i] - origin[j]).norm(dim=1)))
    # the 1e-8 under the root changes a distance of an angstrom by 5e-9, the shortest wave by 4e-8
    torch.testing.assert_close(got[0], at, rtol=0, atol=1e-5)
    torch.testing.assert_close(got[1], new_x, rtol=0, atol=1e-5)


def test_waves_by_hand() -> None:
    got = waves(torch.tensor([15 / 16], dtype=torch.float64))[0]  # 1/16, 1/8, 1/4, 1/2 and 1 turn
    turns = 2 * math.pi * torch.tensor([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], dtype=torch.float64)
    torch.testing.assert_close(got, torch.cat([turns.sin(), turns.cos()]), rtol=0, atol=1e-12)
