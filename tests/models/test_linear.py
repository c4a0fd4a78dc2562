"""The linear layer for inference: the same product, and gradients where they are asked for."""

import pytest
import torch
from torch.nn import functional as F

from fireside.models.linear import LEAST_ROWS, Linear, laid_out, linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, LEAST_ROWS, 40])
def test_it_is_a_linear_layer(rows, bias):
    torch.manual_seed(0)
    layer = Linear(24, 17, bias=bias)
    x = torch.randn(3, 24, rows).mT
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=0)
        half = layer.to(torch.bfloat16)
        assert torch.equal(half(x.bfloat16()), F.linear(x.bfloat16(), half.weight, half.bias))


@pytest.mark.parametrize("rows", [1, LEAST_ROWS, 40, 300])
def test_a_weight_that_is_laid_out_gives_the_same(rows):
    torch.manual_seed(0)
    layer = Linear(24, 17)
    x = torch.randn(2, rows, 24)
    with torch.inference_mode():
        expected = layer(x)
        layer.lay_out()
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)
    assert set(layer.state_dict()) == {"weight", "bias"}
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_only_what_onednn_multiplies_is_laid_out():
    assert laid_out(torch.randn(4, 4, dtype=torch.bfloat16)) is None


def test_views_of_larger_tensors():
    torch.manual_seed(0)
    x, weight = torch.randn(50, 40), torch.randn(30, 64)
    with torch.inference_mode():
        got = linear(x[:, 3:35], weight[5:25, 32:])
    torch.testing.assert_close(got, x[:, 3:35] @ weight[5:25, 32:].mT, atol=1e-4, rtol=0)


def test_gradients_flow():
    torch.manual_seed(0)
    layer = Linear(24, 17)
    x = torch.randn(40, 24, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0


def test_autocast_casts():
    layer = Linear(24, 17)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(40, 24)).dtype == torch.bfloat16
