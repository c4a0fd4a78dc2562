"""Every network on a GPU, which is not there: that no operation mixes devices, and where results come back to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fake_gpu import GPU, devices, fake_gpu, on_gpu
from hift_case import official_small
from unet_cases import small_regulated_flow, small_upsampling_flow

from fireside.engine.calibration import Calibration
from fireside.engine.decoders import make_decoder
from fireside.engine.products import Weights
from fireside.engine.speed import SpeedState, change_speed, stretch
from fireside.engine.stages import flow_stage, vocoder_stage, whole_flow
from fireside.engine.windowed_flow import WindowedFlow
from fireside.models.config import EncoderConfig, FlowConfig, TransformerLMConfig
from fireside.models.flow import CausalFlow
from fireside.models.hift import HiFT
from fireside.models.lm import LM
from fireside.models.speaker import SpeakerEncoder
from fireside.models.speech_tokenizer import SpeechTokenizer
from fireside.models.transformer_lm import TransformerLM
from fireside.models.turns import PlainMachine
from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

MODES = [(torch.float32, False), (torch.float32, True), (torch.float16, True), (torch.bfloat16, False)]
"""What is computed in, and whether at fixed sizes."""
FLOWS = [
    pytest.param(CausalFlow, lambda: tiny.CONFIG.flow, id="v3"),
    pytest.param(UpsamplingFlow, lambda: small_upsampling_flow().config, id="v2"),
    pytest.param(RegulatedFlow, lambda: small_regulated_flow().config, id="v1"),
]
VOCODERS = [
    pytest.param(lambda: tiny.CONFIG.vocoder, False, id="hearth"),
    pytest.param(lambda: official_small(3), False, id="v3"),
    pytest.param(lambda: official_small(2), False, id="v2-fades"),
    pytest.param(lambda: official_small(2), True, id="v2-exact"),
    pytest.param(lambda: official_small(1), False, id="v1"),
]


def tiny_transformer_lm() -> TransformerLM:
    sizes: dict[str, Any] = {"dim": 16, "heads": 2, "ff_dim": 24, "layers": 2, "chunk": 1}
    text = EncoderConfig(input_dim=12, **sizes)
    decoder = EncoderConfig(input_dim=16, block="transformer", activation="relu", input_relu=True, **sizes)
    return TransformerLM(
        TransformerLMConfig(text_vocab_size=50, speech_vocab_size=40, speaker_dim=6, text_encoder=text, decoder=decoder)
    )


def first_id(scores: torch.Tensor, history: object) -> int:
    """A sampler that needs no numbers, and sees that its scores are where it draws."""
    assert scores.device.type == "cpu"
    return 0


def test_a_mixed_operation_is_found() -> None:
    """What the tests below rest on."""
    with fake_gpu():
        there, here = torch.zeros(3, 4, device=GPU), torch.zeros(4)
        for mix in (
            lambda: there * here,
            lambda: there @ here,
            lambda: torch.cat([there, here[None]]),
            lambda: there.__setitem__(0, here),
            lambda: torch.nn.functional.conv1d(there[None], torch.zeros(3, 3, 1)),
            lambda: torch.nn.functional.linear(there, torch.zeros(2, 4)),
        ):
            with pytest.raises(RuntimeError, match="cpu"):
                mix()
        assert (there * here.to(GPU)).device == GPU


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, which has a fake GPU of its own."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


@pytest.mark.parametrize(
    ("dtype", "compile", "weights"), [*((*mode, "float") for mode in MODES), (torch.bfloat16, True, "int8")], ids=str
)
@pytest.mark.parametrize("kind", ["qwen2", "transformer"])
def test_lm(kind: str, dtype: torch.dtype, compile: bool, weights: Weights) -> None:
    config = tiny.CONFIG.lm
    with fake_gpu():
        lm = on_gpu(LM(config) if kind == "qwen2" else tiny_transformer_lm(), dtype)
        decoder = make_decoder(lm, 3, 64, dtype, weights, compile)
        assert decoder.device == GPU
        assert decoder.rows == 3, "a GPU advances all rows at once"
        handles = [
            decoder.admit(PlainMachine(lm.control, range(20 + i), (), (), 5, 6), first_id, speaker)
            for i, speaker in enumerate([None, None, None] if kind == "qwen2" else [None, torch.zeros(6), None])
        ]
        for _ in range(4):
            assert [token for _, token in decoder.step()] == [0, 0, 0]
        again = decoder.step([handles[1]])
    assert again == [(handles[1], 0)]
    assert devices(decoder.cache) == {"cuda"}


@pytest.mark.parametrize(("dtype", "compile"), MODES, ids=str)
@pytest.mark.parametrize(("kind", "config"), FLOWS)
def test_flow(kind: Any, config: Any, dtype: torch.dtype, compile: bool) -> None:
    sizes = config()
    with fake_gpu():
        flow = on_gpu(kind(sizes), dtype)
        prompt = torch.zeros(12, dtype=torch.long), torch.zeros(sizes.n_mels, sizes.frames(12))
        for stage in (flow_stage(flow, compile=compile), whole_flow(flow)):
            voice = stage.start(*prompt, torch.zeros(sizes.speaker_dim))
            states = [voice.fork(), voice.fork()]
            frames = 0
            for final in (False, True):
                tokens = [torch.zeros(count, dtype=torch.long) for count in (26, 13)]
                mels = stage.append(states, tokens, [final, final])
                assert devices([*mels, states, voice]) == {"cuda"}
                frames += mels[0].shape[1]
            assert frames == sizes.frames(52) or isinstance(stage, WindowedFlow)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("config", "exact"), VOCODERS)
def test_vocoder(config: Any, exact: bool, compile: bool) -> None:
    sizes = config()
    with fake_gpu():
        stage = vocoder_stage(on_gpu(HiFT(sizes)).for_inference(), exact, compile)
        state = stage.start(7)
        samples = 0
        for frames, final in ((2, False), (40, False), (37, False), (0, True)):
            (wave,) = stage.append([state], [torch.zeros(sizes.n_mels, frames, device=GPU)], [final])
            assert devices([wave, state]) == {"cuda"}
            samples += len(wave)
    assert samples == 79 * sizes.hop_length


def test_mel_of_another_device_is_brought_to_the_vocoder() -> None:
    """Where the vocoder cannot be on the flow's device, as on a Mac."""
    with fake_gpu():
        stage = vocoder_stage(HiFT(tiny.CONFIG.vocoder).for_inference())
        state = stage.start(7)
        for final in (False, True):
            (wave,) = stage.append([state], [torch.zeros(80, 30, device=GPU)], [final])
    assert devices([wave, state]) == {"cpu"}


def test_calibration() -> None:
    levels = np.sort(np.random.default_rng(0).normal(-5, 2, (2, 7, 80)), axis=1).astype(np.float32)
    with fake_gpu():
        calibration = Calibration.of(levels, GPU)
        assert devices(calibration) == {"cuda"}
        assert calibration(torch.zeros(80, 30, device=GPU)).device == GPU


def test_adaptation() -> None:
    """Of one of two voices."""
    config = tiny.fitting_config().flow
    assert isinstance(config, FlowConfig)
    with fake_gpu():
        stage = flow_stage(on_gpu(CausalFlow(config)))
        prompt = torch.zeros(10, dtype=torch.long), torch.zeros(80, 20), torch.ones(192)
        added = torch.ones(config.dit.modulations, config.dit.dim)
        states = [stage.start(*prompt, adaptation) for adaptation in (added, None)]
        mels = stage.append(states, [torch.zeros(20, dtype=torch.long)] * 2, [True, True])
    assert devices([mels, states]) == {"cuda"}


def test_speed() -> None:
    with fake_gpu():
        state = SpeedState(0.8)
        for final in (False, True):
            assert change_speed(state, torch.zeros(80, 30, device=GPU), final).device == GPU
        assert stretch(torch.zeros(80, 30, device=GPU), 1.3).device == GPU


def test_tokenizer_and_speaker() -> None:
    with fake_gpu(), torch.inference_mode():
        tokenizer = on_gpu(SpeechTokenizer(tiny.CONFIG.tokenizer))
        length = torch.tensor([30], device=GPU)
        assert tokenizer.hidden(torch.zeros(1, tiny.CONFIG.tokenizer.n_mels, 120, device=GPU), length).device == GPU
        codes = tokenizer.fsq(torch.zeros(1, 30, 3, device=GPU))[0]
        assert tokenizer.ctc_logits(codes, length).device == GPU
        with pytest.raises(RuntimeError, match="numpy"):  # the judge's last step, which needs the numbers
            tokenizer.scores(torch.zeros(30, dtype=torch.long))
        speaker = on_gpu(SpeakerEncoder(tiny.CONFIG.speaker))
        assert speaker(torch.zeros(1, 60, 80, device=GPU)).device == GPU
