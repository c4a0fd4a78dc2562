"""What HiFT promises beyond the golden cases: loading, precision, length."""

from __future__ import annotations

import pytest
import torch
from hift_case import official_small
from torch.nn.utils import parametrize

from fireside.errors import ConfigError
from fireside.models.causal import Tails
from fireside.models.config import VocoderConfig
from fireside.models.hift import HiFT, ShortTimeFourier, Snake
from fireside.models.official_vocoder import official_vocoder

VERSIONS = (1, 2, 3)


def small(version: int, seed: int = 0, **changes) -> HiFT:
    torch.manual_seed(seed)
    return HiFT(official_small(version, **changes)).eval()


def run(model: HiFT, frames: int = 12) -> torch.Tensor:
    mel = torch.randn(1, 20, frames, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(mel, seed=3)[0]


def old_names(state: dict) -> dict:
    renamed = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in state.items()}
    return {k.replace("parametrizations.weight.original1", "weight_v"): v for k, v in renamed.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_removing_weight_norm_works_and_changes_nothing(version):
    """Bug 14: the original's remove_weight_norm fails on parametrised weight norm."""
    model = small(version)
    before = run(model)
    model.remove_weight_norm()
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not any("original" in key for key in model.state_dict())
    torch.testing.assert_close(run(model), before, atol=1e-6, rtol=0)
    model.remove_weight_norm()  # once more does no harm


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("file_form", ["parametrised", "old", "folded"])
@pytest.mark.parametrize("fold_first", [False, True])
def test_all_forms_of_weight_norm_load_strictly(version, file_form, fold_first):
    model = small(version)
    expected = run(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if file_form == "old":
        state = old_names(state)
        assert any(key.endswith("weight_g") for key in state)
    elif file_form == "folded":
        model.remove_weight_norm()
        state = {k: v.clone() for k, v in model.state_dict().items()}
    other = small(version, seed=9)
    if fold_first:
        other.remove_weight_norm()
    keys = set(state)
    other.load_state_dict(state, strict=True)
    assert set(state) == keys  # the caller's dict is left as it was
    torch.testing.assert_close(run(other), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_loading_after_for_inference_replaces_everything(version):
    other = small(version).for_inference()
    source = small(version, seed=9)
    expected = run(source)
    other.load_state_dict(source.state_dict(), strict=True)
    torch.testing.assert_close(run(other), expected, atol=1e-5, rtol=0)


def test_a_missing_or_unknown_weight_is_named():
    state = dict(small(3).state_dict())
    del state["conv_pre.parametrizations.weight.original0"]
    with pytest.raises(RuntimeError, match=r"conv_pre\.parametrizations\.weight\.original"):
        small(3).load_state_dict(state)
    state = {**small(3).state_dict(), "surplus.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"surplus\.weight"):
        small(3).load_state_dict(state)


@pytest.mark.parametrize("version", VERSIONS)
def test_official_names_and_sizes(shared, version):
    """The full-size network has exactly the tensors of the official checkpoint."""
    import json

    manifest = json.loads((shared / "manifests" / f"v{version}_hift.json").read_text(encoding="utf-8"))
    config = official_small(version, base_channels=512, f0_channels=512, n_mels=80)
    with torch.device("meta"):
        ours = {k: list(v.shape) for k, v in HiFT(config).state_dict().items()}
    assert ours == {entry["name"]: entry["shape"] for entry in manifest}


@pytest.mark.parametrize("version", VERSIONS)
def test_f0_and_waveform_stay_in_float32_under_autocast(version):
    """Bug 20: the original runs the whole vocoder in half precision when asked to."""
    model = small(version)
    mel = torch.randn(1, 20, 12)
    with torch.no_grad():
        exact = model.predict_f0(mel)
        with torch.autocast("cpu", torch.bfloat16):
            f0 = model.predict_f0(mel)
            wav, _, source = model(mel)
    torch.testing.assert_close(f0, exact, atol=0, rtol=0)
    assert wav.dtype == source.dtype == torch.float32


@pytest.mark.parametrize("version", VERSIONS)
def test_inference_predicts_f0_in_the_configured_precision(version):
    precise, fast = small(version).for_inference(), small(version, f0_float64=False).for_inference()
    assert {p.dtype for p in precise.f0_predictor.parameters()} == {torch.float64}
    assert {p.dtype for p in fast.f0_predictor.parameters()} == {torch.float32}
    mel = torch.randn(1, 20, 12)
    assert precise.predict_f0(mel).dtype == torch.float32
    torch.testing.assert_close(precise.predict_f0(mel), fast.predict_f0(mel), atol=1e-4, rtol=1e-5)


def test_loud_outputs_neither_overflow_nor_break_gradients():
    model = small(3).train()
    with torch.no_grad():
        model.conv_post.bias[: model.stft.bins] = 200.0  # exp(200) is infinite in float32
    wav = model(torch.randn(1, 20, 6))[0]
    wav.square().mean().backward()
    assert wav.abs().max() <= model.config.audio_limit
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (64, 16)])
def test_stft_agrees_with_torch(n_fft, hop):
    stft = ShortTimeFourier(n_fft, hop)
    signal = torch.randn(2, hop * 40)
    window = torch.hann_window(n_fft)
    expected = torch.stft(signal, n_fft, hop, window=window, center=False, return_complex=True)
    got = stft.analyse(signal)
    torch.testing.assert_close(got, torch.cat([expected.real, expected.imag], 1), atol=1e-4, rtol=1e-4)
    joined = stft.overlap(got) / stft.envelope(got.shape[-1]).clamp(min=1e-6)
    torch.testing.assert_close(joined[:, hop:-hop], signal[:, hop:-hop], atol=1e-4, rtol=1e-4)


def test_snake():
    snake = Snake(2)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, 2.0]))
    x = torch.randn(1, 2, 5)
    alpha = torch.tensor([0.5, 2.0])[:, None]
    torch.testing.assert_close(snake(x), x + torch.sin(alpha * x).square() / alpha)


@pytest.mark.parametrize("version", [1, 2])
def test_reach_of_the_centred_decoder(version):
    """Audio depends on mel and source within `reach` frames, and on nothing beyond."""
    model = small(version)
    hop, frames, at = model.config.hop_length, 50, 25
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, 20, frames, generator=generator).requires_grad_()
    source = (torch.rand(1, frames * hop, generator=generator) - 0.5).requires_grad_()
    model.decode(mel, source)[0, at * hop : (at + 1) * hop].sum().backward()
    assert mel.grad is not None
    assert source.grad is not None
    used = [mel.grad[0].any(0), source.grad[0].view(frames, hop).any(1)]
    touched = torch.cat([(part.nonzero() - at).abs() for part in used])
    assert touched.max() <= model.reach <= touched.max() + 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_centred_vocoder_refuses_pieces(version):
    model = small(version)
    with pytest.raises(ValueError, match="whole mels only"):
        model(torch.randn(1, 20, 12), final=False)
    with pytest.raises(ValueError, match="whole signals"):
        model.spectrum(torch.randn(1, 20, 4), torch.randn(1, 18, 4 * 64), Tails())


def test_no_seed_means_no_noise_and_no_random_phase():
    model = small(1)
    assert not model.make_noise(None, 5, 7).any()
    assert model.start_phase(None) is None
    assert not torch.equal(run(model), model(torch.randn(1, 20, 12), seed=None)[0])
    phase = model.start_phase(4)
    assert phase is not None
    assert phase[0, 0] == 0  # only the overtones start anywhere
    assert phase[0, 1:].unique().numel() == 8
    assert small(2).start_phase(4) is None


def test_shared_noise_is_one_channel_for_all_harmonics():
    model = small(3, source_noise="shared")
    noise = model.make_noise(4, 0, 40000)
    assert noise.shape == (1, 40000, 1)
    assert abs(float(noise.std()) - 1) < 0.02  # normal, not uniform
    assert torch.isfinite(run(model)).all()


def test_gains_let_the_sources_spectrum_through():
    model = small(3, source_gains=True)
    bins = model.config.istft_n_fft // 2 + 1
    gains = torch.linspace(-2, 1, bins)
    with torch.no_grad():  # the network's own part silent, the gains constant
        model.remove_weight_norm()
        model.conv_post.weight.zero_()
        model.conv_post.bias.copy_(torch.cat([torch.full((bins,), -100.0), torch.zeros(bins), gains]))
        mel, source = torch.randn(1, 20, 12), torch.randn(1, 12 * model.config.hop_length)
        spectrum = model.source_spectrum(source)
        heard = model.decode(mel, source)
    expected = model.waveform(spectrum * gains.exp().repeat(2)[:, None])
    torch.testing.assert_close(heard, expected)


def test_what_the_official_yaml_says_about_the_vocoder():
    one, two, three = (official_small(version) for version in VERSIONS)
    assert [c.hop_length for c in (one, two, three)] == [256, 480, 480]
    assert [c.source_phase for c in (one, two, three)] == ["sample", "line", "frame"]
    assert [c.fade_frames for c in (one, two)] == [20, 8]
    with pytest.raises(ConfigError, match="dropout is not known"):
        official_vocoder({"sampling_rate": 24000, "dropout": 0.1}, 512, causal=True)
    with pytest.raises(ConfigError, match="upsample_rates"):
        official_vocoder({"upsample_rates": "fast"}, 512, causal=False)
    with pytest.raises(ConfigError, match="istft_params"):
        official_vocoder({"istft_params": {"n_fft": 16}}, 512, causal=False)


def test_a_causal_vocoder_cannot_see_the_next_frames_phase():
    with pytest.raises(ValueError, match="causal"):
        VocoderConfig(source_phase="line")
