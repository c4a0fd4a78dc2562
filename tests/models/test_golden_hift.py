"""HiFT against what the original computes."""

from __future__ import annotations

import math

import pytest
import torch
from hift_case import vocoder_config

from fireside.models.config import VocoderConfig
from fireside.models.hift import HiFT


def load(config: VocoderConfig, weights: dict[str, torch.Tensor]) -> HiFT:
    model = HiFT(config)
    model.load_state_dict(weights, strict=True)
    return model.for_inference()


def test_causal_hift(golden_case):
    case = golden_case("v3_hift")
    model = load(vocoder_config(case.config["ctor"]), case.weights)
    look = model.f0_predictor.look_right
    hop = model.config.hop_length
    mel, given = case.inputs["mel"], case.inputs["given_source"][:, 0]
    noise = case.inputs["sine_noise"]
    got = {}
    with torch.no_grad():
        for name, final in (("final", True), ("nofinal", False)):
            wav, f0, source = model(mel, noise=noise, final=final)
            cut = None if final else -look
            got["f0" if final else "f0_nofinal"] = f0
            got[f"wav_{name}"] = wav
            got[f"source_{name}"] = source[:, None]
            got[f"wav_given_source_{name}"] = model.decode(
                mel[..., :cut], given[:, : None if final else -look * hop], final=final
            )
    case.compare(got)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_hift(golden_case, version):
    case = golden_case(f"{version}_hift")
    model = load(vocoder_config(case.config["ctor"]), case.weights)
    mel, given, fixed = (case.inputs[key] for key in ("mel", "given_source", "fixed_f0"))
    if version == "v1":  # drawn as [batch, harmonics, ...], the phase in radians
        phase = case.inputs["draw0_uniform_sample"][..., 0].double() / (2 * math.pi)
        phase[:, 0] = 0
        noise = case.inputs["draw1_randn_like"].transpose(1, 2)
    else:  # the start phase, draw 0, has no effect: see HarmonicSource.sines
        phase, noise = None, case.inputs["draw1_randn_like"]
    got = {}
    with torch.no_grad():
        got["wav_decode"], f0, source = model(mel, noise=noise, phase=phase)
        got["f0"], got["source"], got["uv"] = f0, source[:, None], model.m_source.voiced(f0)
        got["f0_up_shape"] = torch.tensor(got["uv"].shape)  # f0 per sample, which ours never makes
        got["wav_given_source"] = model.decode(mel, given[:, 0])
        got["stft_real"], got["stft_imag"] = model.source_spectrum(given[:, 0]).chunk(2, dim=1)
        wave, _, source = model(mel, noise=noise, phase=phase, cache_source=case.inputs["cache_source"][:, 0])
        got["wav_inference_cache"], got["source_with_cache"] = wave, source[:, None]
        wave, _, source = model(mel, seed=None)
        got["wav_inference_zero_noise"], got["source_zero_noise"] = wave, source[:, None]
        silence = model.make_noise(None, 0, fixed.shape[1] * model.config.hop_length)
        got["source_fixed_f0"] = model.m_source(fixed, silence)[0][:, None]
    case.compare(got)


def test_pipeline_vocoder(golden_case):
    """The vocoder half of the token-to-waveform case: the stream's chunks, and the one-shot waveform."""
    case = golden_case("v3_tts_pipeline")
    weights = {k[len("hift.") :]: v for k, v in case.weights.items() if k.startswith("hift.")}
    model = load(vocoder_config(case.config["ctor_hift"]), weights)
    trace = case.config["stream_trace"]
    silent = torch.zeros(1, 1, model.m_source.harmonics)

    def wave(mel: torch.Tensor, final: bool) -> torch.Tensor:
        noise = silent.expand(1, mel.shape[-1] * model.config.hop_length, -1)
        with torch.no_grad():
            return model(mel, noise=noise, final=final)[0]

    got, said = {}, 0
    for i, call in enumerate(trace):
        mel = case.outputs[f"stream_vocoder_mel{i}"]
        full = wave(mel, call["finalize"])
        got[f"stream_chunk{i}"] = full[:, said:]
        said = full.shape[1]
    got["nonstream"] = wave(case.outputs["nonstream_mel"], True)
    other = {key: "the flow's part, or derived from a mel that is not stored" for key in case.outputs if key not in got}
    assert all("mel" in key or key.startswith("speed") for key in other)
    case.compare(got, other)
    # The tolerance of single samples is loose where phases have drifted; the waveforms as wholes must agree
    # too.
    for key, value in got.items():
        error = value.double() - case.outputs[key].double()
        snr = 10 * torch.log10(case.outputs[key].double().square().sum() / error.square().sum())
        assert snr > case.config["tolerances"][key]["f32_vs_f64_snr_db"] - 6, key
