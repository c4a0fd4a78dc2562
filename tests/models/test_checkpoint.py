"""Model folders: what is written is read, and what is wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from fireside.errors import ConfigError, ModelError
from fireside.models import checkpoint
from fireside.models.checkpoint import ModelFolder, pack, read_part, unpack, write_part


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_every_part_is_read_as_it_was(tiny_model: Path) -> None:
    model = ModelFolder(tiny_model)
    assert model.config == tiny.CONFIG
    for name, module in tiny.parts().items():
        got = getattr(model, name)
        assert not got.training
        assert not any(parameter.requires_grad for parameter in got.parameters())
        if name != "vocoder":  # its weight norm is folded for inference
            for key, value in module.state_dict().items():
                torch.testing.assert_close(got.state_dict()[key], value, rtol=0, atol=0)


def test_the_vocoder_computes_as_it_did(tiny_model: Path) -> None:
    mel = torch.randn(1, 80, 10, generator=torch.Generator().manual_seed(0)) - 5
    expected = tiny.parts()["vocoder"].eval()(mel)[0]
    torch.testing.assert_close(ModelFolder(tiny_model).vocoder(mel)[0], expected, atol=1e-4, rtol=0)


def test_parts_are_read_when_used(folder: Path) -> None:
    model = ModelFolder(folder)
    (folder / "speaker.safetensors").unlink()
    assert model.lm is model.lm
    with pytest.raises(ModelError, match=r"lacks speaker\.safetensors"):
        _ = model.speaker


@pytest.mark.parametrize(("storage", "error"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3), ("int8", 1e-2)])
def test_storage(tmp_path: Path, storage: checkpoint.Storage, error: float) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {
        "weight": torch.randn(64, 32, 3, generator=generator) * torch.logspace(-3, 1, 64)[:, None, None],
        "zero": torch.zeros(64, 32),
        "bias": torch.randn(64, generator=generator),
        "steps": torch.tensor(7),
    }
    write_part(tmp_path, "lm", state, storage)
    got = read_part(tmp_path, "lm")
    assert got.keys() == state.keys()
    relative = (got["weight"] - state["weight"]).flatten(1).norm(dim=1) / state["weight"].flatten(1).norm(dim=1)
    assert relative.max() <= error
    assert got["weight"].dtype == torch.float32
    for exact in ("zero", "bias", "steps"):
        assert torch.equal(got[exact], state[exact])


def test_int8_is_a_quarter(tmp_path: Path) -> None:
    state = nn.Linear(256, 256).state_dict()
    whole = write_part(tmp_path, "lm", state, "float32").stat().st_size
    assert write_part(tmp_path, "flow", state, "int8").stat().st_size < 0.28 * whole
    assert unpack(pack(state, "int8"))["weight"].shape == (256, 256)


@pytest.mark.parametrize("part", checkpoint.PARTS)
def test_missing_and_truncated_files_are_found_at_once(folder: Path, part: str) -> None:
    file = folder / f"{part}.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:20], whole[:4], b"", b"not a model" * 100, whole + b"x"):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="truncated"):
            ModelFolder(folder)
    file.unlink()
    with pytest.raises(ModelError, match=rf"lacks {part}\.safetensors"):
        ModelFolder(folder)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks fireside\.yaml"):
        ModelFolder(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        ModelFolder(tmp_path / "nowhere")


def test_an_unknown_key(folder: Path) -> None:
    file = folder / checkpoint.CONFIG_FILE
    file.write_text(file.read_text() + "mood: merry\n")
    with pytest.raises(ConfigError, match="mood: unknown key"):
        ModelFolder(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("flow", {"kind": "steam"}, r"flow: unknown steam, not one of 'dit', 'upsampling', 'regulated'"),
        ("flow", {"dit": {"mood": 1}}, r"flow\.dit\.mood: unknown key"),
        ("lm", {"kind": "transformer", "layout": {}}, r"lm\.layout: unknown key"),
        ("vocoder", {"sample_rate": 16000}, "mel and vocoder must agree on the sample rate"),
        ("vocoder", {"n_mels": 100}, "must agree on the number of mel bins"),
        ("tokenizer", {"fsq_levels": [5]}, "must agree on the number of speech tokens"),
    ],
)
def test_a_wrong_value(folder: Path, key: str, value: dict, says: str) -> None:
    file = folder / checkpoint.CONFIG_FILE
    raw = yaml.safe_load(file.read_text())
    raw[key] = value if "kind" in value else {**raw[key], **value}
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=says):
        ModelFolder(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    file = folder / "flow.safetensors"
    state = load_file(file)
    first, second = sorted(state)[:2]
    last = sorted(state)[-1]
    kept = state.pop(first)
    state["surplus"] = kept
    state[last] = torch.cat([state[last], state[last]])
    save_file(state, file)
    with pytest.raises(ModelError) as caught:
        _ = ModelFolder(folder).flow
    text = str(caught.value)
    assert f"lacks {first}" in text
    assert second not in text
    assert "has surplus" in text
    assert f"has {last} as {list(state[last].shape)}" in text


def test_a_header_that_lies(folder: Path) -> None:
    file = folder / "lm.safetensors"
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="damaged"):
        _ = ModelFolder(folder).lm
