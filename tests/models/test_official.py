"""Official folders load strictly, to the number, in every form that their files come in."""

from __future__ import annotations

import sys
from pathlib import Path

import official
import pytest
import torch
from torch import Tensor, nn

from fireside.models.checkpoint import ModelFolder, WithoutInitialisation
from fireside.models.config import LMConfig, ModelConfig
from fireside.models.flow import CausalFlow
from fireside.models.hift import HiFT
from fireside.models.layout import ControlIds
from fireside.models.lm import LM, UNUSED
from fireside.models.official import WEIGHTS, OfficialFolder, open_folder, read_weights, version_of
from fireside.models.official_config import model_config, read_official
from fireside.models.official_lm import Qwen2Sizes
from fireside.models.transformer_lm import TransformerLM
from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow

CLASSES = {
    1: {"lm": TransformerLM, "flow": RegulatedFlow, "vocoder": HiFT},
    2: {"lm": LM, "flow": UpsamplingFlow, "vocoder": HiFT},
    3: {"lm": LM, "flow": CausalFlow, "vocoder": HiFT},
}
VERSIONS = (1, 2, 3)


def full_config(folder: Path, version: int) -> ModelConfig:
    """Our configuration of the full-size official YAML."""
    official.tool().write_description(folder, version, "full")
    sizes = folder / "CosyVoice-BlankEN" / "config.json"
    model = read_official(next(folder.glob("*.yaml")))
    return model_config(model, "full", lambda: Qwen2Sizes.model_validate_json(sizes.read_bytes()), 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_full_size_names_and_shapes(shared: Path, tmp_path: Path, version: int) -> None:
    """Our modules, made from the full-size YAML, have the tensors of the official state dicts and no others."""
    config = full_config(tmp_path, version)
    for part, file in WEIGHTS.items():
        with WithoutInitialisation():
            module = CLASSES[version][part](getattr(config, part))
        entries = official.tool().manifest(official.MANIFESTS, version, file.removesuffix(".pt"))
        expected = {entry.name: entry.shape for entry in entries if entry.name not in UNUSED}
        assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_tiny_folders_have_the_official_names(official_model, version: int) -> None:
    """What the tests run on differs from the official files in sizes and in the number of layers only."""
    config = OfficialFolder(official_model(version)).config
    for file in WEIGHTS.values():
        entries = official.tool().manifest(official.MANIFESTS, version, file.removesuffix(".pt"))
        assert (
            set(read_weights(official_model(version) / file)) < {entry.name for entry in entries} or file == "hift.pt"
        )
    assert config.frontend == f"cosyvoice{version}"
    assert config.token_rate == (50 if version == 1 else 25)
    assert config.mel.sample_rate == config.vocoder.sample_rate == (22050 if version == 1 else 24000)
    assert config.mel.fmax == (None if version == 3 else 8000)
    assert ("bistream" in config.modes) == (version > 1)
    assert "instruct" not in config.modes


@pytest.mark.parametrize("version", VERSIONS)
def test_every_weight_arrives(official_model, version: int) -> None:
    folder = official_model(version)
    model = open_folder(folder)
    assert isinstance(model, OfficialFolder)
    for part in ("lm", "flow"):
        module: nn.Module = getattr(model, part)
        assert isinstance(module, CLASSES[version][part])
        assert not module.training
        state = module.state_dict()
        stored = torch.load(folder / WEIGHTS[part], weights_only=True)
        assert set(stored) - set(UNUSED) == set(state)
        for name, value in state.items():
            assert torch.equal(value, stored[name]), name
    assert not any(parameter.requires_grad for parameter in model.vocoder.parameters())


def vocoded(folder: Path) -> Tensor:
    """What a folder's vocoder makes of some mel."""
    mel = torch.randn(1, 80, 12, generator=torch.Generator().manual_seed(3)) - 5
    with torch.inference_mode():
        return OfficialFolder(folder).vocoder(mel)[0]


def old_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that weight norm had before torch's parametrisations."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, value in state.items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[name] = value
    return renamed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["gan", "old names", "gan with old names", "training"])
def test_forms_of_the_vocoder(official_model, official_copy, version: int, form: str) -> None:
    expected = vocoded(official_model(version))
    folder = official_copy(version)
    state = torch.load(folder / "hift.pt", weights_only=True)
    if "old names" in form:
        state = old_weight_norm(state)
        assert "conv_pre.weight_v" in state
    if "gan" in form:
        state = {f"generator.{name}": value for name, value in state.items()}
        state["discriminator.mpd.discriminators.0.convs.0.weight_v"] = torch.zeros(3)
    if form == "training":
        state |= {"epoch": 7, "step": 1234}
    torch.save(state, folder / "hift.pt")
    torch.testing.assert_close(vocoded(folder), expected, atol=0, rtol=0)


@pytest.mark.parametrize("part", ["lm", "flow"])
def test_training_checkpoints(official_copy, part: str) -> None:
    folder = official_copy(2)
    file = folder / WEIGHTS[part]
    state = torch.load(file, weights_only=True)
    torch.save({**state, "epoch": 3, "step": 99}, file)
    got = getattr(OfficialFolder(folder), part).state_dict()
    assert all(torch.equal(got[name], state[name]) for name in got)


def test_a_file_of_an_old_torch(official_copy) -> None:
    """Before the zip format; it cannot be memory-mapped."""
    folder = official_copy(3)
    state = torch.load(folder / "flow.pt", weights_only=True)
    torch.save(state, folder / "flow.pt", _use_new_zipfile_serialization=False)
    got = OfficialFolder(folder).flow.state_dict()
    assert all(torch.equal(got[name], state[name]) for name in got)


def test_dtype_is_of_lm_and_flow(official_model) -> None:
    model = open_folder(official_model(3), torch.bfloat16)
    assert {parameter.dtype for parameter in model.lm.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.flow.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.flow.buffers()} == {torch.float32}, "tables stay exact"
    assert torch.bfloat16 not in {parameter.dtype for parameter in model.vocoder.parameters()}


def test_the_first_cosyvoice2_had_the_file_name_of_the_first_version(official_copy) -> None:
    folder = official_copy(2)
    text = (folder / "cosyvoice2.yaml").read_text(encoding="utf-8")
    (folder / "cosyvoice2.yaml").unlink()
    text = text.replace("CausalConditionalDecoder", "ConditionalDecoder").replace(
        "            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>\n", "            causal: True\n"
    )
    text = text.replace("            num_decoding_left_chunks: !ref <num_decoding_left_chunks>\n", "")
    (folder / "cosyvoice.yaml").write_text(text, encoding="utf-8")
    model = OfficialFolder(folder)
    assert model.version == 2
    assert model.config_file == "cosyvoice.yaml"
    assert isinstance(model.flow, UpsamplingFlow)


def test_instruct_is_known_by_its_name(official_model, tmp_path: Path) -> None:
    named = tmp_path / "CosyVoice-300M-Instruct"
    named.symlink_to(official_model(1))
    assert "instruct" not in OfficialFolder(official_model(1)).config.modes
    model = OfficialFolder(tmp_path / "CosyVoice-300M-Instruct")
    assert model.config.name != "CosyVoice-300M-Instruct", "a link's target has the name"


def test_the_modes_of_a_folder_without_named_voices(official_copy) -> None:
    folder = official_copy(1)
    (folder / "spk2info.pt").unlink()
    instruct = folder.rename(folder.with_name("CosyVoice-300M-Instruct"))
    model = OfficialFolder(instruct)
    assert model.speakers == {}
    assert "sft" not in model.config.modes
    assert "instruct" not in model.config.modes, "nobody is there to be told"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(official_copy) -> None:
    """float32 weights stay in the file; those of another dtype take their own bytes and little more."""
    folder = official_copy(3)
    rows, width = 200_000, 56
    state = torch.load(folder / "llm.pt", weights_only=True)
    state["llm.model.model.embed_tokens.weight"] = torch.randn(rows, width)
    state["llm.model.lm_head.weight"] = state["llm.model.model.embed_tokens.weight"]
    torch.save(state, folder / "llm.pt")
    sizes = folder / "CosyVoice-BlankEN" / "config.json"
    sizes.write_text(sizes.read_text().replace('"vocab_size": 1024', f'"vocab_size": {rows}'))
    del state
    bf16 = rows * width * 2
    for dtype, most in ((torch.float32, 0.3), (torch.bfloat16, 1.3)):
        before = anonymous_bytes()
        lm = open_folder(folder, dtype).lm
        assert anonymous_bytes() - before < most * bf16, dtype
        del lm


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def test_versions_are_told_by_their_weights(official_model) -> None:
    for version in VERSIONS:
        for part, file in WEIGHTS.items():
            state = read_weights(official_model(version) / file)
            assert version_of(part, state) == version
            assert version_of(part, old_weight_norm(state)) == version
    assert version_of("lm", {}) is version_of("flow", {}) is version_of("vocoder", {}) is None


def test_our_own_folders_open_too(tiny_model: Path) -> None:
    model = open_folder(tiny_model)
    assert type(model) is ModelFolder


def test_making_a_module_to_load_draws_nothing() -> None:
    """Loading must not move anybody's random generator."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with WithoutInitialisation():
        nn.Sequential(nn.Linear(8, 8), nn.Embedding(4, 4), nn.Conv1d(2, 2, 3))
    assert torch.equal(torch.rand(3), expected)


def test_what_the_lms_do_differently(official_model) -> None:
    """Control ids, bistream and silence: differences that the YAML does not spell out."""
    second, third = (OfficialFolder(official_model(version)).config.lm for version in (2, 3))
    assert isinstance(second, LMConfig)
    assert isinstance(third, LMConfig)
    ids = ControlIds.of(second)
    assert (ids.eos, ids.fill, ids.end) == (6561, 6563, 6564)
    assert ids.sos >= ids.end, "rows of an embedding of their own"
    ids = ControlIds.of(third)
    assert (ids.sos, ids.eos, ids.task, ids.fill, ids.end) == (6561, 6562, 6563, 6564, 6761)
    assert not second.layout.mix_instruct_first
    assert third.layout.mix_instruct_first
    assert (second.max_silent_run, third.max_silent_run) == (0, 5)
    assert 2241 in third.silent_tokens
