"""Official folders made ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fireside.errors import ModelError, OutputError, UsageError
from fireside.models.checkpoint import ModelFolder
from fireside.models.official import OfficialFolder, open_folder
from fireside.repack import Precision, repack
from fireside.voices import read_voice


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_same_model(official_model, tmp_path: Path, version: int) -> None:
    before = OfficialFolder(official_model(version))
    files = repack(before, tmp_path / "out")
    assert all(file.is_file() for file in files)
    after = open_folder(tmp_path / "out")
    assert type(after) is ModelFolder
    assert after.config == before.config.model_copy(update={"default_voice": "中文女"})
    for part in ("lm", "flow"):
        expected = getattr(before, part).state_dict()
        got = getattr(after, part).state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in got)
    mel = torch.randn(1, 80, 12, generator=torch.Generator().manual_seed(3)) - 5
    with torch.inference_mode():
        torch.testing.assert_close(after.vocoder(mel)[0], before.vocoder(mel)[0], atol=0, rtol=0)
        torch.testing.assert_close(after.speaker(mel.mT), before.speaker(mel.mT), atol=0, rtol=0)
    features = torch.randn(1, 128, 50)
    assert torch.equal(after.tokenizer.encode(features), before.tokenizer.encode(features))
    names = {file.name for file in after.text_folder.iterdir()}
    assert ("multilingual.tiktoken" if version == 1 else "vocab.json") in names
    voice = read_voice(after.path / "voices", "英文男")
    assert np.array_equal(voice.embedding, before.speakers["英文男"]["embedding"][0].numpy())


@pytest.mark.parametrize(("precision", "share", "error"), [("bf16", 0.55, 8e-3), ("int8", 0.35, 2e-2)])
def test_small_forms(official_model, tmp_path: Path, precision: Precision, share: float, error: float) -> None:
    before = OfficialFolder(official_model(2))
    whole = sum(file.stat().st_size for file in repack(before, tmp_path / "whole") if file.name == "lm.safetensors")
    small = repack(before, tmp_path / "small", precision)
    assert sum(file.stat().st_size for file in small if file.name == "lm.safetensors") < share * whole
    after = ModelFolder(tmp_path / "small")
    for part in ("lm", "flow"):
        expected = getattr(before, part).state_dict()
        for name, value in getattr(after, part).state_dict().items():
            assert value.dtype == torch.float32
            assert (value - expected[name]).norm() <= error * expected[name].norm(), name
    for name, value in before.vocoder.state_dict().items():
        assert torch.equal(after.vocoder.state_dict()[name], value), "the vocoder stays exact"


def test_stored_bf16_is_what_loading_in_bf16_gives(official_model, tmp_path: Path) -> None:
    repack(OfficialFolder(official_model(3)), tmp_path / "out", "bf16")
    expected = open_folder(official_model(3), torch.bfloat16).flow.state_dict()
    got = open_folder(tmp_path / "out", torch.bfloat16).flow.state_dict()
    for name, value in got.items():
        if value.ndim > 1:
            assert torch.equal(value, expected[name]), name


def test_where_it_cannot_go(official_model, official_copy, tmp_path: Path) -> None:
    model = OfficialFolder(official_model(2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        repack(model, tmp_path / "full")
    with pytest.raises(OutputError, match="cannot be written"):
        repack(model, tmp_path / "full" / "file" / "below")
    damaged = official_copy(3)
    state = torch.load(damaged / "hift.pt", weights_only=True)
    state.pop("conv_post.bias")
    torch.save(state, damaged / "hift.pt")
    with pytest.raises(ModelError, match=r"conv_post\.bias"):
        repack(OfficialFolder(damaged), tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is written before everything is read"
