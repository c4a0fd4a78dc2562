"""CosyVoice 1's flow in overlapping windows: the original's schedule, with every request's state its own."""

import pytest
import torch
from unet_cases import load_regulated, small_regulated_flow

from fireside.engine.windowed_flow import WindowedFlow, window_noise
from fireside.models.unet_flow import OVERLAP_FRAMES


def request(flow, seed, prompt=7, tokens=90):
    """Prompt tokens, prompt mel, speaker embedding and tokens of a made-up request."""
    generator = torch.Generator().manual_seed(seed)
    config = flow.config
    ids = torch.randint(0, config.speech_vocab_size, (prompt + tokens,), generator=generator)
    mel = torch.randn(config.n_mels, config.frames(prompt), generator=generator)
    return ids[:prompt], mel, torch.randn(config.speaker_dim, generator=generator), ids[prompt:]


def test_one_final_window_is_the_one_shot_mel():
    flow = small_regulated_flow()
    *voice, tokens = request(flow, 1)
    engine = WindowedFlow(flow)
    state = engine.start(*voice)
    (mel,) = engine.append([state], [tokens], [True])
    noise = window_noise(0, voice[1].shape[1] + flow.config.frames(len(tokens)), flow.config.n_mels)
    tokens, prompt_tokens, prompt_mel, embedding, noise = (x[None] for x in (tokens, *voice, noise))
    assert torch.equal(mel, flow.inference(tokens, prompt_tokens, prompt_mel, embedding, noise)[0])
    assert state.nbytes == 0
    with pytest.raises(ValueError, match="ended"):
        engine.append([state], [tokens[0]], [True])


def test_every_token_is_heard_once():
    """Each window gives its tokens without the overlap; the last one gives the rest."""
    flow = small_regulated_flow()
    *voice, tokens = request(flow, 2, tokens=100)
    engine = WindowedFlow(flow)
    state = engine.start(*voice)
    lengths = []
    for start, stop in ((0, 60), (60, 80), (80, 80), (80, 100)):
        (mel,) = engine.append([state], [tokens[start:stop]], [stop == 100])
        lengths.append(mel.shape[1])
    frames = flow.config.frames
    assert lengths == [frames(60) - OVERLAP_FRAMES, frames(40) - OVERLAP_FRAMES, 0, frames(40)]


@pytest.mark.parametrize("prompt", [0, 9])
@pytest.mark.parametrize("tokens", [0, 1, 20, 21])
def test_short_speech(prompt, tokens):
    flow = small_regulated_flow()
    *voice, ids = request(flow, 3, prompt, tokens)
    engine = WindowedFlow(flow)
    state = engine.start(*voice)
    mels = engine.append([state], [ids], [False]) + engine.append([state], [ids[:0]], [True])
    assert all(mel.isfinite().all() for mel in mels)
    assert sum(mel.shape[1] for mel in mels) == flow.config.frames(tokens)


def test_requests_do_not_meet():
    flow = small_regulated_flow()
    engine = WindowedFlow(flow)
    first, second = request(flow, 4), request(flow, 5, prompt=0)
    alone = []
    for *voice, tokens in (first, second):
        state = engine.start(*voice)
        mels = engine.append([state], [tokens[:50]], [False]) + engine.append([state], [tokens[50:]], [True])
        alone.append(torch.cat(mels, 1))
    voices = [engine.start(*case[:3]) for case in (first, second)]
    states = [voice.fork() for voice in voices]
    mels = engine.append(states, [first[3][:50], second[3][:50]], [False, False])
    forks = [state.fork() for state in states]
    rest = engine.append(states, [first[3][50:], second[3][50:]], [True, True])
    again = engine.append(forks, [first[3][50:], second[3][50:]], [True, True])
    for i in range(2):
        assert torch.equal(torch.cat([mels[i], rest[i]], 1), alone[i])
        assert torch.equal(again[i], rest[i])
        assert voices[i].windows == 0


def test_windows_have_noise_of_their_own():
    assert not torch.equal(window_noise(0, 50, 8), window_noise(1, 50, 8))
    assert torch.equal(window_noise(1, 50, 8), window_noise(1, 90, 8)[:, :50])


def test_golden_pipeline_mels(golden_case):
    """The mel of every call of the original's streaming loop, and of its one call for everything."""
    case = golden_case("v1_tts_pipeline")
    x = case.inputs
    weights = {k.removeprefix("flow."): v for k, v in case.weights.items() if k.startswith("flow.")}
    flow = load_regulated(case.config["ctor_flow"], weights).requires_grad_(False)
    engine = WindowedFlow(flow, noise=lambda window, frames, n_mels: x["noise"][0, :, :frames])
    voice = engine.start(x["flow_prompt_speech_token"][0], x["prompt_speech_feat"][0].T, x["flow_embedding"][0])
    tokens = x["source_speech_token"][0]
    got = {}
    for name, trace in (("stream", case.config["stream_trace"]), ("nonstream", case.config["nonstream_trace"])):
        state, given, mel = voice.fork(), 0, torch.zeros(flow.config.n_mels, 0)
        for number, call in enumerate(trace):
            stop = call["tokens"] + (0 if given == 0 else given - 20)
            (new,) = engine.append([state], [tokens[given:stop]], [call["finalize"]])
            mel, given = torch.cat([mel, new], 1), stop
            key = "nonstream_mel" if name == "nonstream" else f"stream_vocoder_mel{number}"
            # The original's vocoder also gets a few frames of the call before.
            got[key] = mel[None, :, mel.shape[1] - case.outputs[key].shape[2] :]
        assert given == len(tokens)
    waves = {k: "a waveform; the vocoder's test" for k in case.outputs if case.outputs[k].ndim == 2}
    case.compare(got, waves)
