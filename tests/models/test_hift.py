"""What HiFT promises beyond the golden cases: loading, precision, length."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from fireside.models.config import VocoderConfig
from fireside.models.hift import HiFT, ShortTimeFourier, Snake

SMALL = VocoderConfig(base_channels=32, f0_channels=24, n_mels=20)


def small(**changes) -> HiFT:
    torch.manual_seed(0)
    return HiFT(SMALL.model_copy(update=changes)).eval()


def run(model: HiFT, frames: int = 12) -> torch.Tensor:
    mel = torch.randn(1, 20, frames, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(mel, seed=3)[0]


def old_names(state: dict) -> dict:
    renamed = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in state.items()}
    return {k.replace("parametrizations.weight.original1", "weight_v"): v for k, v in renamed.items()}


def test_removing_weight_norm_works_and_changes_nothing():
    """Bug 14: the original's remove_weight_norm fails on parametrised weight norm."""
    model = small()
    before = run(model)
    model.remove_weight_norm()
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not any("original" in key for key in model.state_dict())
    torch.testing.assert_close(run(model), before, atol=1e-6, rtol=0)
    model.remove_weight_norm()  # once more does no harm


@pytest.mark.parametrize("file_form", ["parametrised", "old", "folded"])
@pytest.mark.parametrize("fold_first", [False, True])
def test_all_forms_of_weight_norm_load_strictly(file_form, fold_first):
    model = small()
    expected = run(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if file_form == "old":
        state = old_names(state)
        assert any(key.endswith("weight_g") for key in state)
    elif file_form == "folded":
        model.remove_weight_norm()
        state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(9)
    other = HiFT(SMALL).eval()
    if fold_first:
        other.remove_weight_norm()
    keys = set(state)
    other.load_state_dict(state, strict=True)
    assert set(state) == keys  # the caller's dict is left as it was
    torch.testing.assert_close(run(other), expected, atol=1e-5, rtol=0)


def test_loading_after_for_inference_replaces_everything():
    other = small().for_inference()
    torch.manual_seed(9)
    source = HiFT(SMALL).eval()
    expected = run(source)
    other.load_state_dict(source.state_dict(), strict=True)
    torch.testing.assert_close(run(other), expected, atol=1e-5, rtol=0)


def test_a_missing_or_unknown_weight_is_named():
    state = dict(small().state_dict())
    del state["conv_pre.parametrizations.weight.original0"]
    with pytest.raises(RuntimeError, match=r"conv_pre\.parametrizations\.weight\.original"):
        HiFT(SMALL).load_state_dict(state)
    state = {**small().state_dict(), "surplus.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"surplus\.weight"):
        HiFT(SMALL).load_state_dict(state)


def test_official_names_and_sizes(shared):
    """The full-size network has exactly the tensors of the official checkpoint."""
    import json

    manifest = json.loads((shared / "manifests" / "v3_hift.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        ours = {k: list(v.shape) for k, v in HiFT(VocoderConfig()).state_dict().items()}
    assert ours == {entry["name"]: entry["shape"] for entry in manifest}


def test_f0_and_waveform_stay_in_float32_under_autocast():
    """Bug 20: the original runs the whole vocoder in half precision when asked to."""
    model = small()
    mel = torch.randn(1, 20, 12)
    with torch.no_grad():
        exact = model.predict_f0(mel)
        with torch.autocast("cpu", torch.bfloat16):
            f0 = model.predict_f0(mel)
            wav, _, source = model(mel)
    torch.testing.assert_close(f0, exact, atol=0, rtol=0)
    assert wav.dtype == source.dtype == torch.float32


def test_inference_predicts_f0_in_the_configured_precision():
    precise, fast = small().for_inference(), small(f0_float64=False).for_inference()
    assert {p.dtype for p in precise.f0_predictor.parameters()} == {torch.float64}
    assert {p.dtype for p in fast.f0_predictor.parameters()} == {torch.float32}
    mel = torch.randn(1, 20, 12)
    assert precise.predict_f0(mel).dtype == torch.float32
    torch.testing.assert_close(precise.predict_f0(mel), fast.predict_f0(mel), atol=1e-4, rtol=1e-5)


def test_loud_outputs_neither_overflow_nor_break_gradients():
    model = HiFT(SMALL)
    with torch.no_grad():
        model.conv_post.bias[: model.stft.bins] = 200.0  # exp(200) is infinite in float32
    wav = model(torch.randn(1, 20, 6))[0]
    wav.square().mean().backward()
    assert wav.abs().max() <= SMALL.audio_limit
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
