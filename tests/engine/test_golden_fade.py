"""Cross-fades and CosyVoice 1 and 2's vocoder schedule against what the original computes."""

from __future__ import annotations

import pytest
import torch
from hift_case import vocoder_config

from fireside.engine.fade import cross_fade, hamming_window
from fireside.engine.fading_vocoder import FadingVocoder
from fireside.models.hift import HiFT


def test_fade_in_out(golden_case):
    case = golden_case("fade_in_out")
    got = {
        "mel": cross_fade(case.inputs["mel_in"], case.inputs["mel_out"]),
        "speech": cross_fade(case.inputs["sp_in"], case.inputs["sp_out"]),
    }
    for key, stored in case.outputs.items():
        if key.startswith("window_"):
            got[key] = hamming_window(len(stored)).float()
    case.compare(got)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pipeline_vocoder(golden_case, version):
    """The vocoder half of the token-to-waveform case: the stream's chunks, and the one-shot waveform."""
    case = golden_case(f"{version}_tts_pipeline")
    model = HiFT(vocoder_config(case.config["ctor_hift"]))
    model.load_state_dict({k[len("hift.") :]: v for k, v in case.weights.items() if k.startswith("hift.")})
    vocoder = FadingVocoder(model.for_inference())
    got, state = {}, vocoder.start(seed=None)
    for i, call in enumerate(case.config["stream_trace"]):
        mel = case.outputs[f"stream_vocoder_mel{i}"][0]
        cached = state.mel.shape[1]
        torch.testing.assert_close(mel[:, :cached], state.mel, atol=0, rtol=0)  # of the mel, what was cached
        (wave,) = vocoder.append([state], [mel[:, cached:]], [call["finalize"]])
        got[f"stream_chunk{i}"] = wave[None]
    (wave,) = vocoder.append([vocoder.start(seed=None)], [case.outputs["nonstream_mel"][0]], [True])
    got["nonstream"] = wave[None]
    other = {key: "the flow's part, or made from a mel that is not stored" for key in case.outputs if key not in got}
    assert all("mel" in key or key.startswith("speed") for key in other)
    case.compare(got, other)
    # The tolerance of single samples is loose where phases have drifted; the waveforms as wholes must agree too.
    for key, value in got.items():
        expected = case.outputs[key].double()
        snr = 10 * torch.log10(expected.square().sum() / (value.double() - expected).square().sum())
        assert snr > case.config["tolerances"][key]["f32_vs_f64_snr_db"] - 6, key
