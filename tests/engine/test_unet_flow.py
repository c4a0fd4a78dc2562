"""CosyVoice 2's flow in pieces: joined chunks equal one shot, alone or in a crowd."""

import pytest
import torch
from flow_cases import load_flow
from test_flow import largest_error, one_shot, request, stream
from unet_cases import load_upsampling, small_upsampling_flow

from fireside.engine.flow import IncrementalFlow
from fireside.engine.unet_flow import IncrementalUNetFlow

TOLERANCE = 1e-4


@pytest.mark.parametrize(
    ("prompt", "hops"),
    [(0, []), (3, [1, 2, 3, 20]), (10, [8, 13, 18, 23, 28]), (21, [0, 30, 32]), (0, [31])],
)
def test_joined_chunks_equal_one_shot(prompt, hops):
    flow = small_upsampling_flow()
    case = request(flow, 1, prompt)
    engine = IncrementalUNetFlow(flow)
    mels = stream(engine, engine.start(*case[:3]), case[3], hops)
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 6])
def test_ends_shorter_than_the_lookahead(tokens):
    flow = small_upsampling_flow()
    case = request(flow, 2, prompt=5, tokens=tokens)
    engine = IncrementalUNetFlow(flow)
    (mel,) = engine.append([engine.start(*case[:3])], [case[3]], [True])
    assert largest_error(mel, one_shot(flow, *case)) < TOLERANCE
    assert mel.shape[1] == tokens * flow.config.token_mel_ratio


def test_nothing_at_all_gives_an_empty_mel():
    flow = small_upsampling_flow()
    engine = IncrementalUNetFlow(flow)
    case = request(flow, 2, prompt=0, tokens=0)
    (mel,) = engine.append([engine.start(*case[:3])], [case[3]], [True])
    assert mel.shape == (flow.config.n_mels, 0)


@pytest.mark.parametrize(("steps", "cfg_rate"), [(1, 0.7), (6, 0.0)])
def test_solver_options(steps, cfg_rate):
    flow = small_upsampling_flow()
    case = request(flow, 4)
    engine = IncrementalUNetFlow(flow, steps=steps, cfg_rate=cfg_rate)
    mels = stream(engine, engine.start(*case[:3]), case[3], [11, 22])
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case, steps=steps, cfg_rate=cfg_rate)) < TOLERANCE


def test_several_passes_and_segments():
    flow = small_upsampling_flow(steps=2)
    case = request(flow, 3, prompt=60, tokens=120)
    engine = IncrementalUNetFlow(flow)
    mels = stream(engine, engine.start(*case[:3]), case[3], [23, 38, 53])
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE


def test_a_crowd_equals_each_alone():
    flow = small_upsampling_flow()
    engine = IncrementalUNetFlow(flow)
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
    flow = small_upsampling_flow()
    engine = IncrementalUNetFlow(flow)
    first, second = request(flow, 9, prompt=23), request(flow, 10, prompt=23)
    voice = engine.start(*first[:3])
    before = voice.nbytes
    one, two = voice.fork(), voice.fork()
    assert one.nbytes <= before - 4 * engine.bytes_per_frame * flow.config.chunk_frames
    mels = [[], []]
    for start in range(0, 33, 11):  # interleaved
        for i, (state, case) in enumerate([(one, first), (two, second)]):
            mels[i] += engine.append([state], [case[3][start : start + 11]], [start == 22])
    assert largest_error(torch.cat(mels[0], 1), one_shot(flow, *first)) < TOLERANCE
    assert largest_error(torch.cat(mels[1], 1), one_shot(flow, *first[:3], second[3])) < TOLERANCE
    assert voice.nbytes == before


def test_memory_is_as_stated_and_freed_at_the_end():
    flow = small_upsampling_flow()
    config, unet, encoder = flow.config, flow.config.unet, flow.config.encoder
    case = request(flow, 13, prompt=103, tokens=40)
    layers = (unet.mid_blocks + 2) * unet.blocks
    for storage, size in ((None, 4), (torch.bfloat16, 2)):
        engine = IncrementalUNetFlow(flow, storage=storage)
        state = engine.start(*case[:3])
        a_frame = config.steps * layers * 2 * 2 * unet.heads * unet.dim_head * size
        assert engine.bytes_per_frame == a_frame
        widths = [4 * config.n_mels, 2 * unet.channels[0]] + [unet.channels[0]] * (2 * (unet.mid_blocks + 2) + 1)
        tails = 2 * 2 * config.steps * 4 * sum(widths)
        encoded = 4 * encoder.dim * (2 * 100 * encoder.layers + 2 * 200 * config.up_layers + 2)
        assert state.nbytes == 100 * config.token_mel_ratio * a_frame + tails + encoded
        engine.append([state], [case[3]], [True])
        assert state.nbytes == 0
        with pytest.raises(ValueError, match="ended"):
            engine.append([state], [case[3]], [False])


def test_a_failed_pass_leaves_the_state_as_it_was(monkeypatch):
    """What an error interrupts can be asked for again."""
    flow = small_upsampling_flow()
    case = request(flow, 14)
    engine = IncrementalUNetFlow(flow)
    state = engine.start(*case[:3])
    mels = engine.append([state], [case[3][:14]], [False])
    run, calls = flow.estimator.run, []

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return run(*arguments)

    monkeypatch.setattr(flow.estimator, "run", fails_once)
    with pytest.raises(RuntimeError, match="memory"):
        engine.append([state], [case[3][14:]], [False])
    mels += engine.append([state], [case[3][:0]], [True])
    assert largest_error(torch.cat(mels, 1), one_shot(flow, *case)) < TOLERANCE


def test_half_precision_stays_close_and_finite():
    flow = small_upsampling_flow()
    case = request(flow, 15)
    exact = one_shot(flow, *case)
    engine = IncrementalUNetFlow(flow.to(torch.bfloat16))
    mel = torch.cat(stream(engine, engine.start(*case[:3]), case[3], [11]), 1)
    assert mel.dtype == torch.float32
    assert (mel - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("name", "load", "engine"),
    [
        ("v2_flow_inference", load_upsampling, IncrementalUNetFlow),
        ("v3_flow_inference", load_flow, IncrementalFlow),
    ],
)
def test_golden_streams_whose_past_is_kept_in_bfloat16(golden_case, name, load, engine):
    """Half the memory, and still within 40 dB of the original's float32 mel under the chunk mask."""
    case = golden_case(name)
    x = case.inputs
    flow = load(case.config["ctor"], case.weights).requires_grad_(False)
    incremental = engine(flow, storage=torch.bfloat16)
    assert 2 * incremental.bytes_per_frame == engine(flow).bytes_per_frame
    state = incremental.start(x["prompt_token"][0], x["prompt_feat"][0].T, x["embedding"][0])
    mel = torch.cat(stream(incremental, state, x["token"][0], [20, 33]), 1)
    exact = case.outputs["mel_s1f1"][0]
    assert 10 * torch.log10(exact.square().sum() / (mel - exact).square().sum()) >= 40


def test_golden_streamed_mels(golden_case):
    """The mels of the original's streaming loop, which recomputes its whole past at every hop."""
    case = golden_case("v2_tts_pipeline")
    weights = {k.removeprefix("flow."): v for k, v in case.weights.items() if k.startswith("flow.")}
    flow = load_upsampling(case.config["ctor_flow"], weights).requires_grad_(False)
    engine = IncrementalUNetFlow(flow)
    x = case.inputs
    state = engine.start(x["flow_prompt_speech_token"][0], x["prompt_speech_feat"][0].T, x["flow_embedding"][0])
    tokens = x["source_speech_token"][0]
    mel, given = torch.zeros(flow.config.n_mels, 0), 0
    for number, call in enumerate(case.config["stream_trace"]):
        if call["finalize"]:
            break  # the original's last call uses the full mask, a bug that Fireside does not have
        at = call["token_offset"] * flow.config.token_mel_ratio
        (new,) = engine.append([state], [tokens[given : call["tokens"]]], [False])
        mel, given = torch.cat([mel, new], 1), call["tokens"]
        # The original's vocoder also gets a few frames of the call before.
        key = f"stream_vocoder_mel{number}"
        expected = case.outputs[key][0]
        assert largest_error(mel[:, mel.shape[1] - expected.shape[1] :], expected) < case.atol(key)
        assert mel.shape[1] - expected.shape[1] <= at
    assert given
