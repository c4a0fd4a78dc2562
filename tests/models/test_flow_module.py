"""What the goldens do not show of the flow: draws, masks, precision, global generators."""

import random
from dataclasses import replace

import numpy as np
import torch
from flow_cases import small_flow

from fireside.models.config import FlowConfig
from fireside.models.dit import chunk_mask
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowBatch, FlowDraws


def batch_of(flow, lengths=(12, 9)):
    config = flow.config
    generator = torch.Generator().manual_seed(3)
    longest = max(lengths)
    frames = longest * config.token_mel_ratio
    return FlowBatch(
        tokens=torch.randint(0, config.speech_vocab_size, (len(lengths), longest), generator=generator),
        token_mask=torch.arange(longest) < torch.tensor(lengths)[:, None],
        mel=torch.randn(len(lengths), config.n_mels, frames, generator=generator),
        embedding=torch.randn(len(lengths), config.speaker_dim, generator=generator),
        prefix=torch.tensor([4, 0]),
    )


def draws_of(batch, seed=0):
    return FlowDraws.sample(batch, 0.2, 0.5, torch.Generator().manual_seed(seed))


def test_building_a_flow_reseeds_nothing():
    """The original's constructor seeds Python's, NumPy's and torch's generators with 0 (FACTS §9, 16)."""
    random.seed(5), np.random.seed(5)
    CausalFlow(small_flow().config)
    fresh_python, fresh_numpy = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    assert (fresh_python, fresh_numpy) == (random.random(), np.random.rand())
    torch.manual_seed(5)
    CausalFlow(small_flow().config)
    after = torch.rand(())
    torch.manual_seed(6)
    CausalFlow(small_flow().config)
    assert after != torch.rand(())


def test_loss_and_synthesis_draw_nothing():
    flow = small_flow()
    batch = batch_of(flow)
    draws = draws_of(batch)
    before = torch.random.get_rng_state()
    first = flow.loss(batch, draws)["loss"]
    prompt = (batch.tokens[:, :2], batch.mel[:, :, :4], batch.embedding, draws.noise)
    flow.inference(batch.tokens[:, 2:], *prompt)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(flow.loss(batch, draws)["loss"], first)


def test_draws_come_from_their_generator_with_the_right_shares():
    flow = small_flow()
    batch = batch_of(flow)
    assert torch.equal(draws_of(batch, 1).noise, draws_of(batch, 1).noise)
    generator = torch.Generator().manual_seed(0)
    many = [FlowDraws.sample(batch, 0.2, 0.75, generator) for _ in range(500)]
    assert abs(torch.cat([d.keep for d in many]).float().mean() - 0.8) < 0.04
    assert abs(sum(d.chunked for d in many) / 500 - 0.75) < 0.06
    assert all(((d.t >= 0) & (d.t < 1)).all() for d in many)


def test_padding_does_not_reach_the_loss():
    flow = small_flow()
    batch = batch_of(flow)
    draws = draws_of(batch)
    first = flow.loss(batch, draws)["loss"]
    tokens, mel = batch.tokens.clone(), batch.mel.clone()
    tokens[1, 9:], mel[1, :, 18:] = 1, 99.0
    assert torch.allclose(flow.loss(replace(batch, tokens=tokens, mel=mel), draws)["loss"], first, atol=1e-6)


def test_loss_mask_and_prompt_mel():
    flow = small_flow()
    batch = batch_of(flow, (12, 12))
    draws = replace(draws_of(batch), keep=torch.tensor([True, True]))
    masked = torch.zeros_like(batch.mel)
    masked[0, :5] = 1
    one = flow.loss(replace(batch, loss_mask=masked), draws)["loss"]
    other_mel = batch.mel.clone()
    other_mel[1] += 3.0  # a row outside the mask
    two = flow.loss(replace(batch, loss_mask=masked, mel=other_mel), draws)["loss"]
    assert torch.allclose(one, two, atol=1e-6)
    # The prompt is cut from prompt_mel, and only its first `prefix` frames are seen.
    late, early = batch.mel.clone(), batch.mel.clone()
    late[0, :, 4:] += 1.0
    early[0, :, :4] += 1.0
    plain = flow.loss(batch, draws)["loss"]
    assert torch.equal(flow.loss(replace(batch, prompt_mel=late), draws)["loss"], plain)
    assert not torch.equal(flow.loss(replace(batch, prompt_mel=early), draws)["loss"], plain)


def test_normalisation_is_undone():
    """Scaling the corpus and the configuration alike scales the mel and nothing else."""
    plain = small_flow(mel_mean=0.0, mel_std=1.0)
    scaled = small_flow(mel_mean=-5.0, mel_std=3.0)
    scaled.load_state_dict(plain.state_dict())
    batch = batch_of(plain)
    noise = draws_of(batch).noise
    mel = plain.inference(batch.tokens[:, 2:], batch.tokens[:, :2], batch.mel[:, :, :4], batch.embedding, noise)
    prompt = batch.mel[:, :, :4] * 3.0 - 5.0
    other = scaled.inference(batch.tokens[:, 2:], batch.tokens[:, :2], prompt, batch.embedding, noise)
    assert torch.allclose(other, mel * 3.0 - 5.0, atol=1e-4)


def test_half_precision_keeps_the_residual_stream_in_float32():
    flow = small_flow().to(torch.bfloat16)
    batch = batch_of(flow)
    seen = []
    for block in flow.estimator.transformer_blocks:
        block.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
    mel = flow.inference(
        batch.tokens[:, 2:], batch.tokens[:, :2], batch.mel[:, :, :4], batch.embedding, draws_of(batch).noise
    )
    assert set(seen) == {(torch.float32, torch.float32)}
    assert mel.dtype == torch.float32
    assert mel.isfinite().all()


def test_chunk_mask():
    mask = chunk_mask(0, 5, 2)
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert mask.int().tolist() == expected
    assert torch.equal(chunk_mask(2, 5, 2), mask[2:])


def test_the_full_mask_is_the_default_only_of_models_made_for_it():
    batch = None
    for offline in (True, False):
        flow = small_flow(full_mask_offline=offline)
        batch = batch_of(flow, (12, 12))
        arguments = (
            batch.tokens,
            batch.tokens[:, :0],
            batch.mel[:, :, :0],
            batch.embedding,
            draws_of(batch).noise,
        )
        default = flow.inference(*arguments)
        assert torch.equal(default, flow.inference(*arguments, chunked=not offline))
        assert not torch.equal(default, flow.inference(*arguments, chunked=offline))
    assert FlowConfig().full_mask_offline


def test_the_guided_velocity_is_what_the_solver_follows():
    """One Euler step from the noise goes along it to the end; conditions are never dropped."""
    flow = small_flow()
    batch = batch_of(flow, lengths=(12, 12))
    batch = replace(batch, prefix=torch.tensor([4, 4]))
    draws = replace(draws_of(batch), t=torch.zeros(2), keep=torch.zeros(2, dtype=torch.bool), chunked=True)
    velocity = flow.guided(batch, draws)
    prompt = (batch.tokens[:, :2], batch.mel[:, :, :4], batch.embedding, draws.noise)
    mel = flow.inference(batch.tokens[:, 2:], *prompt, chunked=True, steps=1)
    assert flow.config.cfg_rate > 0
    torch.testing.assert_close(flow.denormalise(draws.noise + velocity)[:, :, 4:], mel, atol=1e-5, rtol=1e-5)


def test_guidance_towards_the_speaker_goes_away_from_anybody():
    """Twice as far at twice the rate, and nowhere where the speaker makes no difference."""
    flow = small_flow()
    batch = batch_of(flow)
    draws = draws_of(batch)
    plain, once, twice = (flow.guided(batch, draws, rate) for rate in (0.0, 0.5, 1.0))
    assert not torch.allclose(once, plain, atol=1e-4)
    torch.testing.assert_close(twice - plain, 2 * (once - plain), atol=1e-5, rtol=1e-4)
    anybody = replace(batch, embedding=torch.zeros_like(batch.embedding))
    torch.nn.init.zeros_(flow.spk_embed_affine_layer.bias)
    torch.testing.assert_close(flow.guided(anybody, draws, 0.5), flow.guided(anybody, draws), atol=1e-6, rtol=1e-5)


def test_a_velocity_that_is_given_is_learnt_in_place_of_the_paths():
    flow = small_flow()
    batch = batch_of(flow)
    draws = replace(draws_of(batch), keep=torch.ones(2, dtype=torch.bool))
    own = flow.config.model_copy(update={"cfg_rate": 0.0})
    twin = CausalFlow(own)
    twin.load_state_dict(flow.state_dict())
    assert float(flow.loss(batch, draws, twin.guided(batch, draws))["loss"]) < 1e-10
    assert float(flow.loss(batch, draws)["loss"]) > 1e-3
