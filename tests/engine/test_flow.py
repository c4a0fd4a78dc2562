"""The incremental flow: joined chunks equal one shot, alone or in a crowd; memory is as stated."""

import pytest
import torch
from flow_cases import load_flow, small_flow

from fireside.engine.flow import IncrementalFlow
from fireside.engine.noise import start_noise
from fireside.models.config import DiTConfig

TOLERANCE = 1e-4


def request(flow, seed, prompt=7, tokens=33):
    """Prompt tokens, prompt mel, speaker embedding and tokens of a made-up request."""
    generator = torch.Generator().manual_seed(seed)
    config = flow.config
    ids = torch.randint(0, config.speech_vocab_size, (prompt + tokens,), generator=generator)
    mel = torch.randn(config.n_mels, prompt * config.token_mel_ratio, generator=generator)
    embedding = torch.randn(config.speaker_dim, generator=generator)
    return ids[:prompt], mel, embedding, ids[prompt:]


def one_shot(flow, prompt_tokens, prompt_mel, embedding, tokens, **options):
    """The pure modules' answer under the chunk mask."""
    frames = (len(prompt_tokens) + len(tokens)) * flow.config.token_mel_ratio
    return flow.inference(
        tokens[None],
        prompt_tokens[None],
        prompt_mel[None],
        embedding[None],
        start_noise(flow.config, 0, frames)[None],
        chunked=True,
        **options,
    )[0]


def stream(engine, state, tokens, hops):
    """Append the tokens hop by hop, the last hop final; the mels in order."""
    mels = []
    for start, stop in zip([0, *hops], [*hops, len(tokens)], strict=True):
        mels += engine.append([state], [tokens[start:stop]], [stop == len(tokens)])
    return mels


def largest_error(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max()) if a.numel() else 0.0


@pytest.mark.parametrize("prompt", [0, 3, 10, 21])
@pytest.mark.parametrize("hops", [[], [1, 2, 3, 20], [8, 13, 18, 23, 28], [31], [0, 30, 32]])
def test_joined_chunks_equal_one_shot(prompt, hops):
    flow = small_flow()
    case = request(flow, 1, prompt)
    engine = IncrementalFlow(flow)
    mels = stream(engine, engine.start(*case[:3]), case[3], hops)
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 6])
def test_ends_shorter_than_the_lookahead(tokens):
    flow = small_flow()
    case = request(flow, 2, prompt=5, tokens=tokens)
    engine = IncrementalFlow(flow)
    (mel,) = engine.append([engine.start(*case[:3])], [case[3]], [True])
    assert largest_error(mel, one_shot(flow, *case)) < TOLERANCE
    assert mel.shape[1] == tokens * flow.config.token_mel_ratio


def test_nothing_at_all_gives_an_empty_mel():
    flow = small_flow()
    engine = IncrementalFlow(flow)
    case = request(flow, 2, prompt=0, tokens=0)
    (mel,) = engine.append([engine.start(*case[:3])], [case[3]], [True])
    assert mel.shape == (flow.config.n_mels, 0)


def test_hearth_size_with_several_passes():
    dit = DiTConfig(dim=256, depth=8, heads=4, dim_head=64, ff_mult=2)
    flow = small_flow(dit=dit, n_mels=80, chunk_tokens=15, steps=3, cfg_rate=0.7)
    case = request(flow, 3, prompt=40, tokens=130)
    engine = IncrementalFlow(flow)
    mels = stream(engine, engine.start(*case[:3]), case[3], [23, 38, 53])
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE
    assert [mel.shape[1] for mel in mels] == [40, 30, 30, 160]


@pytest.mark.parametrize(("steps", "cfg_rate"), [(1, 0.7), (6, 0.0), (2, 2.0)])
def test_solver_options(steps, cfg_rate):
    flow = small_flow()
    case = request(flow, 4)
    engine = IncrementalFlow(flow, steps=steps, cfg_rate=cfg_rate)
    mels = stream(engine, engine.start(*case[:3]), case[3], [11, 22])
    expected = one_shot(flow, *case, steps=steps, cfg_rate=cfg_rate)
    assert largest_error(torch.cat(mels, 1), expected) < TOLERANCE


def test_a_chunk_waits_for_its_lookahead_and_no_longer():
    flow = small_flow()
    engine = IncrementalFlow(flow)
    case = request(flow, 5, prompt=0)
    state = engine.start(*case[:3])
    chunk, ahead = flow.config.chunk_tokens, flow.config.pre_lookahead_len
    (early,) = engine.append([state], [case[3][: chunk + ahead - 1]], [False])
    (due,) = engine.append([state], [case[3][chunk + ahead - 1 : chunk + ahead]], [False])
    assert (early.shape[1], due.shape[1]) == (0, flow.config.chunk_frames)


def test_a_crowd_equals_each_alone():
    flow = small_flow()
    engine = IncrementalFlow(flow)
    cases = [request(flow, seed, prompt, tokens) for seed, prompt, tokens in [(6, 0, 40), (7, 12, 17), (8, 30, 26)]]
    alone = [torch.cat(stream(engine, engine.start(*case[:3]), case[3], []), 1) for case in cases]
    states = [engine.start(*case[:3]) for case in cases]
    hops = [[0, 9, 30, 40], [0, 2, 17], [0, 26]]  # they leave one after another
    got = [[] for _ in cases]
    for turn in range(3):
        live = [i for i in range(3) if turn + 1 < len(hops[i])]
        pieces = [cases[i][3][hops[i][turn] : hops[i][turn + 1]] for i in live]
        finals = [turn + 2 == len(hops[i]) for i in live]
        for i, mel in zip(live, engine.append([states[i] for i in live], pieces, finals), strict=True):
            got[i].append(mel)
    for i in range(3):
        assert largest_error(torch.cat(got[i], 1), alone[i]) < 1e-5


def test_forks_share_their_prompt_and_nothing_else():
    flow = small_flow()
    engine = IncrementalFlow(flow)
    first, second = request(flow, 9, prompt=23), request(flow, 10, prompt=23)
    voice = engine.start(*first[:3])
    before = voice.nbytes
    one, two = voice.fork(), voice.fork()
    chunk_bytes = engine.bytes_per_frame * flow.config.chunk_frames
    assert one.nbytes < before - 3 * chunk_bytes
    mels = [[], []]
    for start in range(0, 33, 11):  # interleaved
        for i, (state, case) in enumerate([(one, first), (two, second)]):
            mels[i] += engine.append([state], [case[3][start : start + 11]], [start == 22])
    assert largest_error(torch.cat(mels[0], 1), one_shot(flow, *first)) < TOLERANCE
    assert largest_error(torch.cat(mels[1], 1), one_shot(flow, *first[:3], second[3])) < TOLERANCE
    assert voice.nbytes == before


def test_a_fork_completes_its_prompt_before_there_is_anything_to_hear():
    flow = small_flow()
    config = flow.config
    case = request(flow, 14, prompt=4 * config.chunk_tokens)
    engine = IncrementalFlow(flow)
    voice = engine.start(*case[:3])
    forks = [voice.fork(), voice.fork()]
    (silent, audible) = (
        engine.append([fork], [case[3][:count]], [False])[0].shape[1]
        for fork, count in zip(forks, (config.pre_lookahead_len, config.chunk_tokens + 3), strict=True)
    )
    assert (silent, audible) == (0, config.chunk_frames)
    mels = engine.append(forks[:1], [case[3][config.pre_lookahead_len :]], [True])
    assert largest_error(mels[0], one_shot(flow, *case)) < TOLERANCE


def test_a_fork_is_not_disturbed_when_its_origin_goes_on():
    flow = small_flow()
    engine = IncrementalFlow(flow)
    case, other = request(flow, 11, prompt=0), request(flow, 12, prompt=0)
    origin = engine.start(*case[:3])
    mels = engine.append([origin], [case[3][:10]], [False])
    fork = origin.fork()
    engine.append([origin], [other[3]], [False])
    mels += engine.append([fork], [case[3][10:]], [True])
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE


def test_memory_is_as_stated_and_freed_at_the_end():
    flow = small_flow()
    config, dit = flow.config, flow.config.dit
    engine = IncrementalFlow(flow)
    case = request(flow, 13, prompt=103, tokens=40)
    state = engine.start(*case[:3])
    a_frame = config.steps * dit.depth * 2 * 2 * dit.heads * dit.dim_head * 4
    assert engine.bytes_per_frame == a_frame
    tails = 2 * config.steps * 2 * dit.dim * (dit.conv_pos_kernel - 1) * 4
    assert state.nbytes == 100 * config.token_mel_ratio * a_frame + tails
    engine.append([state], [case[3]], [False])
    grown = state.nbytes
    # Room is added in segments: never less than is used, never more than three times as much.
    assert 140 * config.token_mel_ratio * a_frame + tails <= grown <= 280 * config.token_mel_ratio * a_frame
    engine.append([state], [case[3][:0]], [True])
    assert state.nbytes == 0
    assert not state.segments
    with pytest.raises(ValueError, match="ended"):
        engine.append([state], [case[3]], [False])


def test_prompt_lengths_must_agree():
    flow = small_flow()
    case = request(flow, 14)
    with pytest.raises(ValueError, match="mel frames"):
        IncrementalFlow(flow).start(case[0], case[1][:, 1:], case[2])


def test_half_precision_stays_close_and_finite():
    flow = small_flow()
    case = request(flow, 15)
    exact = one_shot(flow, *case)
    engine = IncrementalFlow(flow.to(torch.bfloat16))
    mel = torch.cat(stream(engine, engine.start(*case[:3]), case[3], [11]), 1)
    assert mel.dtype == torch.float32
    assert (mel - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_golden_streamed_mels(golden_case):
    """The mels of the original's streaming loop, which recomputes its whole past."""
    case = golden_case("v3_tts_pipeline")
    weights = {k.removeprefix("flow."): v for k, v in case.weights.items() if k.startswith("flow.")}
    flow = load_flow(case.config["ctor_flow"], weights).requires_grad_(False)
    engine = IncrementalFlow(flow)
    x = case.inputs
    state = engine.start(x["flow_prompt_speech_token"][0], x["prompt_speech_feat"][0].T, x["flow_embedding"][0])
    tokens = x["source_speech_token"][0]
    mels, given = [], 0
    for number, call in enumerate(case.config["stream_trace"]):
        if call["finalize"]:
            break  # the original's last call uses the full mask, a bug that Fireside does not have
        mels += engine.append([state], [tokens[given : call["tokens"]]], [False])
        given = call["tokens"]
        key = f"stream_vocoder_mel{number}"
        assert largest_error(torch.cat(mels, 1)[None], case.outputs[key]) < case.atol(key)
    assert mels
