"""What the goldens do not show of CosyVoice 1's and 2's flows: draws, masks, precision, configuration, pieces."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from flow_cases import load_flow
from pydantic import ValidationError
from test_flow_module import batch_of, draws_of
from unet_cases import load_regulated, load_upsampling, small_regulated_flow, small_upsampling_flow

from fireside.models.config import EncoderConfig, UNetConfig, UpsamplingFlowConfig
from fireside.models.length_regulator import LengthRegulator
from fireside.models.matching import FlowBatch, FlowDraws
from fireside.models.unet_flow import UpsamplingFlow


def regulated_batch(flow, lengths=(12, 9)):
    """Padded rows whose frames are no multiple of their tokens."""
    frames = [flow.config.frames(length) for length in lengths]
    generator = torch.Generator().manual_seed(3)
    return FlowBatch(
        tokens=torch.randint(0, flow.config.speech_vocab_size, (len(lengths), max(lengths)), generator=generator),
        token_mask=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
        mel=torch.randn(len(lengths), flow.config.n_mels, max(frames), generator=generator),
        embedding=torch.randn(len(lengths), flow.config.speaker_dim, generator=generator),
        prefix=torch.tensor([4, 0]),
        frames=torch.tensor(frames),
    )


def test_building_a_flow_reseeds_nothing():
    """The original's constructor seeds Python's, NumPy's and torch's generators with 0 (FACTS §9, 16)."""
    config = small_upsampling_flow().config
    states = []
    for seed in (5, 6):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        UpsamplingFlow(config)
        states.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert all(first != second for first, second in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("build", "make"), [(small_upsampling_flow, batch_of), (small_regulated_flow, regulated_batch)]
)
def test_loss_draws_nothing_and_padded_mel_does_not_reach_it(build, make):
    flow = build()
    batch = make(flow)
    draws = draws_of(batch)
    before = torch.random.get_rng_state()
    first = flow.loss(batch, draws)["loss"]
    assert torch.equal(torch.random.get_rng_state(), before)
    mel = batch.mel.clone()
    mel[1, :, -1:] = 99.0
    assert torch.allclose(flow.loss(replace(batch, mel=mel), draws)["loss"], first, atol=1e-6)
    mel[0, :, -1:] = 99.0  # no padding there
    assert not torch.allclose(flow.loss(replace(batch, mel=mel), draws)["loss"], first, atol=1e-2)


@pytest.mark.parametrize("chunked", [False, True])
def test_padded_tokens_do_not_reach_the_loss(chunked):
    flow = small_upsampling_flow()
    batch = batch_of(flow)
    draws = replace(draws_of(batch), keep=torch.tensor([True, True]), chunked=chunked)
    tokens = batch.tokens.clone()
    tokens[1, 9:] = 1
    first = flow.loss(batch, draws)["loss"]
    assert torch.allclose(flow.loss(replace(batch, tokens=tokens), draws)["loss"], first, atol=1e-6)
    tokens[1, 8] = (tokens[1, 8] + 1) % flow.config.speech_vocab_size
    assert not torch.allclose(flow.loss(replace(batch, tokens=tokens), draws)["loss"], first, atol=1e-6)


def test_a_regulated_flow_must_be_told_the_frames():
    flow = small_regulated_flow()
    batch = replace(regulated_batch(flow), frames=None)
    with pytest.raises(ValueError, match="frames"):
        flow.loss(batch, FlowDraws.sample(batch, 0.2, 0.5, torch.Generator().manual_seed(0)))


def test_a_regulated_flow_has_no_chunk_mask():
    flow = small_regulated_flow()
    batch = regulated_batch(flow)
    arguments = (batch.tokens[:1], batch.tokens[:1, :0], batch.mel[:1, :, :0], batch.embedding[:1])
    with pytest.raises(ValueError, match="chunk mask"):
        flow.inference(*arguments, torch.randn(1, flow.config.n_mels, 40), chunked=True)


def test_the_chunk_mask_reaches_encoder_and_unet():
    """Under it no frame changes with what lies behind its chunk and the look-ahead; under the full mask all do."""
    flow = small_upsampling_flow()
    config = flow.config
    batch = batch_of(flow, (20, 20))
    tokens = batch.tokens[:1]
    other = tokens.clone()
    other[:, config.chunk_tokens + config.pre_lookahead_len] += 1
    noise = torch.randn(1, config.n_mels, 40, generator=torch.Generator().manual_seed(1))
    voice = (batch.tokens[:1, :0], batch.mel[:1, :, :0], batch.embedding[:1], noise)
    for chunked in (True, False):
        one, two = (flow.inference(ids % config.speech_vocab_size, *voice, chunked=chunked) for ids in (tokens, other))
        same = (one == two).all(dim=1)[0]
        assert bool(same[: config.chunk_frames].all()) is chunked
        assert not same[config.chunk_frames :].any()


def test_pieces_of_the_encoder_join():
    """Alone, with a last piece that ends within a chunk and within the look-ahead."""
    flow = small_upsampling_flow()
    encoder, ahead = flow.encoder, flow.config.pre_lookahead_len
    x = torch.randn(1, 23, encoder.embed.out[0].in_features, generator=torch.Generator().manual_seed(2))
    pieces, past = [], None
    for start, stop in ((0, 10), (10, 15), (15, 20), (20, 23)):
        before = min(2, start)
        y, past = encoder.piece(x[:, start - before : stop + ahead], before, stop - start, past)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), encoder(x, chunked=True), atol=1e-5, rtol=0)


def test_the_edges_of_longer_speech_depend_on_themselves_only():
    """So that the windows of a stream agree in their overlap."""
    regulator = LengthRegulator(8, 0)
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 1, 60, 8, generator=generator)
    two[:, :20] = one[:, -20:]
    frames = small_regulated_flow().config.frames
    nothing = one[:, :0]
    with torch.no_grad():
        end = regulator.inference(nothing, one, 0, frames)[:, -frames(20) :]
        start = regulator.inference(nothing, two, 0, frames)[:, : frames(20)]
    torch.testing.assert_close(end, start, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_mel_ratio": 3},
        {"encoder": EncoderConfig(chunk=4)},
        {"unet": UNetConfig(channels=(32, 32))},
        {"unet": UNetConfig(causal=False)},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValidationError):
        UpsamplingFlowConfig(**changes)


def test_half_precision_keeps_the_residual_stream_in_float32():
    flow = small_upsampling_flow().to(torch.bfloat16)
    batch = batch_of(flow)
    seen = []
    for stage in flow.estimator.mid_blocks:
        stage.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
        for block in stage[1]:
            block.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
    mel = flow.inference(
        batch.tokens[:, 2:], batch.tokens[:, :2], batch.mel[:, :, :4], batch.embedding, draws_of(batch).noise
    )
    assert set(seen) == {(torch.float32, torch.float32)}
    assert mel.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "load"),
    [("v1_flow_inference", load_regulated), ("v2_flow_inference", load_upsampling), ("v3_flow_inference", load_flow)],
)
def test_golden_models_in_bfloat16(golden_case, name, load):
    """One shot in bfloat16 stays within 40 dB of the original's float32 mel."""
    case = golden_case(name)
    x = case.inputs
    call = "_call1" if "token_call1" in x else ""
    flow = load(case.config["ctor"], case.weights).to(torch.bfloat16)
    prompt = (x["prompt_token"], x["prompt_feat"].mT, x["embedding"])
    mel = flow.inference(x[f"token{call}"], *prompt, x[f"noise{call}"], chunked=False)
    exact = case.outputs["call1_mel" if call else "mel_s0f1"]
    assert 10 * torch.log10(exact.square().sum() / (mel - exact).square().sum()) >= 40
