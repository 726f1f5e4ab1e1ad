"""Decoders of domains: chunks, gradients, weights that move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pgdlab.domains.base import Decoder
from pgdlab.domains.digits import Digits
from pgdlab.domains.qm9 import QM9


class Autoencoder(Decoder):
    """A layer, and a count of the rows that it was asked for at a time."""

    chunk = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2).double().requires_grad_(False)
        self.asked: list[int] = []

    def decode(self, sample: Tensor) -> Tensor:
        self.asked.append(len(sample))
        return self.layer(sample).tanh()


def test_chunks_are_the_whole_with_its_gradient() -> None:
    decoder = Autoencoder()
    sample = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    image = decoder(sample)
    assert decoder.asked == [3, 3, 2]
    torch.testing.assert_close(image, decoder.layer(sample).tanh(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(image.sum(), sample)
    expected = (1 - image.square()) @ decoder.layer.weight  # d tanh(u) = 1 - tanh(u)^2
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert next(decoder.to(torch.float32).parameters()).dtype is torch.float32


@pytest.mark.parametrize("domain", [Digits(), QM9()], ids=lambda d: d.name)
def test_decoders_say_whether_they_carry_gradients(domain: Digits | QM9) -> None:
    g = torch.Generator().manual_seed(0)
    sample = (0.1 * torch.randn(2, *domain.space.shape, generator=g)).requires_grad_()
    decoded = domain.decoder(sample)
    assert domain.decoder.differentiable == (isinstance(decoded, Tensor) and decoded.requires_grad)
