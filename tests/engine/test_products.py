"""Products whose weights are joined, stored in bfloat16 or in one byte each."""

from __future__ import annotations

import pytest
import torch
from lm_cases import Recorder, run, tiny_lm
from torch.nn import functional as F

from fireside.engine.lm import LMDecoder
from fireside.engine.products import PACKED_ROWS, Product, halves, join, quantise
from fireside.engine.sampling import greedy
from fireside.models.turns import PlainMachine


def linears(*sizes: int, width: int = 64) -> list[torch.nn.Linear]:
    torch.manual_seed(0)
    return [torch.nn.Linear(width, size) for size in sizes]


def test_joined_weights_are_held_once():
    parts = linears(5, 7)
    x = torch.randn(3, 64)
    before = [part(x) for part in parts]
    joined = join([part.weight for part in parts])
    assert all(part.weight.untyped_storage().data_ptr() == joined.data_ptr() for part in parts)
    assert all(torch.equal(part(x), y) for part, y in zip(parts, before, strict=True))
    assert join([part.weight for part in parts]).data_ptr() == joined.data_ptr()


def test_modules_can_still_be_trained_after_a_decoder_was_made_of_them():
    lm = tiny_lm()
    LMDecoder(lm, slots=1, max_len=8)
    lm(torch.tensor([[1, 2]])).sum().backward()
    assert lm.decoder.layers[0].self_attn.k_proj.weight.grad.abs().max() > 0


def test_a_module_of_the_computing_type_is_decoded_without_a_copy():
    lm = tiny_lm().bfloat16()
    decoder = LMDecoder(lm, slots=1, max_len=8, dtype=torch.bfloat16)
    for layer, held in zip(lm.decoder.layers, decoder.layers, strict=True):
        pairs = (
            (layer.mlp.up_proj, held.gate_up),
            (layer.mlp.down_proj, held.down),
            (layer.self_attn.v_proj, held.qkv),
        )
        for linear, product in pairs:
            assert linear.weight.untyped_storage().data_ptr() == product.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_its_layers_one_beside_the_other(dtype):
    parts = linears(5, 7)
    product = Product([part.weight for part in parts], [part.bias for part in parts], dtype)
    x = torch.randn(3, 64)
    expected = torch.cat([part(x) for part in parts], -1)
    atol = 1e-6 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(product(x.to(dtype)).float(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, PACKED_ROWS, PACKED_ROWS + 1])
def test_int8_products(rows):
    """Packed and unpacked, with what a row's scale allows."""
    (layer,) = linears(96)
    product = Product([layer.weight], [layer.bias], torch.bfloat16, "int8")
    x = torch.randn(rows, 64).bfloat16()
    expected = F.linear(x.float(), layer.weight, layer.bias)
    got = product(x).float()
    assert (got - expected).norm() / expected.norm() < 0.01
    assert product.nbytes == layer.weight.numel()


def test_quantised_weights_are_within_half_a_step():
    weight = torch.cat([torch.randn(6, 50), torch.zeros(1, 50), torch.full((1, 50), 3e-39)])
    packed, scale = quantise(weight)
    assert packed.abs().max() == 127
    assert scale.dtype == torch.bfloat16
    error = (packed.float() * scale.float()[:, None] - weight).abs()
    assert (error <= 0.501 * scale.float()[:, None]).all()


@pytest.mark.parametrize(("options", "agreement"), [({"dtype": torch.bfloat16}, 0.03), ({"weights": "int8"}, 0.05)])
def test_decoding_in_less_precision_says_about_the_same(options, agreement):
    """Teacher-forced: probabilities after the same ids."""
    lm = tiny_lm()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    exact, rough = Recorder(greedy), None
    machine = PlainMachine(lm.control, [1, 2, 3], [4, 5], [6, 7], min_tokens=30, max_tokens=30)
    run(LMDecoder(lm, slots=1, max_len=64), machine, exact)
    said = machine.history
    rough = Recorder(lambda scores, history: said[len(history)])
    again = PlainMachine(lm.control, [1, 2, 3], [4, 5], [6, 7], min_tokens=30, max_tokens=30)
    decoder = LMDecoder(lm, slots=1, max_len=64, **options)
    run(decoder, again, rough)
    assert decoder.dtype == torch.bfloat16
    difference = torch.stack(rough.scores).exp() - torch.stack(exact.scores).exp()
    assert 0 < difference.abs().sum(-1).max() < agreement


def test_a_request_in_int8_says_the_same_alone_and_among_others():
    lm = tiny_lm()

    def scores(count: int) -> list[torch.Tensor]:
        decoder = LMDecoder(lm, slots=3, max_len=64, rows=4, weights="int8")
        recorders = [Recorder(greedy) for _ in range(count)]
        for i, recorder in enumerate(recorders):
            decoder.admit(PlainMachine(lm.control, [1 + i, 2, 3], min_tokens=12, max_tokens=12), recorder)
        while decoder.step():
            pass
        return recorders[0].scores

    assert all(torch.equal(a, b) for a, b in zip(scores(1), scores(3), strict=True))


def half_exact(*sizes: int, width: int = 64) -> list[torch.nn.Linear]:
    """Layers whose weights lose nothing in half precision; biases are as they come."""
    parts = linears(*sizes, width=width)
    for part in parts:
        part.weight.data = part.weight.data.half().float()
    if not halves(part.weight for part in parts):
        pytest.skip("this processor has no product with weights in half precision")
    return parts


@pytest.mark.parametrize("rows", [1, 7, 150])
def test_weights_in_half_precision_lose_nothing(rows):
    """The float32 product to rounding, from half the bytes."""
    parts = half_exact(50, 30, width=704)
    product = Product([part.weight for part in parts], [part.bias for part in parts], kind="half")
    x = torch.randn(rows, 704)
    expected = torch.cat([torch.nn.functional.linear(x.double(), p.weight.double(), p.bias.double()) for p in parts], 1)
    torch.testing.assert_close(product(x).double(), expected, atol=1e-5, rtol=0)
    assert product.nbytes == 2 * 80 * 704


@torch.no_grad()
@pytest.mark.parametrize(("out", "width"), [(512, 256), (256, 704), (929, 256), (13, 40)])
def test_a_row_of_it_cannot_tell_how_many_there_are(out, width):
    (part,) = half_exact(out, width=width)
    product = Product([part.weight], [part.bias], kind="half")
    x = torch.randn(40, width)
    alone = torch.cat([product(row[None]) for row in x])
    for rows in range(2, 41):
        assert torch.equal(product(x[:rows]), alone[:rows])
        assert torch.equal(product(x[-rows:]), alone[-rows:])


def test_only_weights_that_lose_nothing_are_held_in_half_precision():
    (part,) = half_exact(8)
    assert not halves([torch.full_like(part.weight, 1 + 2**-12)])
    assert not halves([torch.full_like(part.weight, 1e6)])
    assert not halves([part.weight.bfloat16()])
