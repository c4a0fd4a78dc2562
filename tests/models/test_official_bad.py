"""Bad official folders: one sentence each, and nothing of them is run."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from fireside.errors import ConfigError, FiresideError, ModelError
from fireside.models.official import WEIGHTS, OfficialFolder, open_folder, read_pickle, read_speakers

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 2023215248\n"
ONNX = {"tokenizer": "speech_tokenizer_v2.onnx", "speaker": "campplus.onnx"}


def use(folder: Path) -> None:
    """Open a folder and read all of it."""
    model = open_folder(folder)
    for part in (*WEIGHTS, *ONNX):
        getattr(model, part)


def refused(folder: Path, error: type[FiresideError] = ModelError) -> str:
    """The sentence that a folder is refused with."""
    with pytest.raises(error) as caught:
        use(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("file", [*WEIGHTS.values(), "spk2info.pt"])
@pytest.mark.parametrize("form", ["zip", "old", "pickle 2", "pickle 4"])
@pytest.mark.filterwarnings("error")
def test_malicious_pickles(official_copy, tmp_path: Path, file: str, form: str) -> None:
    folder = official_copy(2)
    proof = tmp_path / "proof"
    state = {"conv_pre.bias": torch.zeros(4), "x": Evil(proof)}
    if form.startswith("pickle"):
        (folder / file).write_bytes(pickle.dumps(state, protocol=int(form[-1])))
    else:
        torch.save(state, folder / file, _use_new_zipfile_serialization=form == "zip")
    text = refused(folder)
    assert not proof.exists()
    assert file in text
    assert re.search("nothing (in it )?was run", text)
    if not form.startswith("pickle"):
        assert f"asks to run code when it is read ({os.system.__module__}.system)" in text


def test_the_proof_would_be_there(tmp_path: Path) -> None:
    """The attack of the test above works on a reader that unpickles."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists()


@pytest.mark.parametrize("file", [*WEIGHTS.values(), *ONNX.values(), "CosyVoice-BlankEN/config.json"])
def test_missing_files(official_copy, file: str) -> None:
    folder = official_copy(2)
    (folder / file).unlink()
    text = refused(folder)
    assert f"lacks {Path(file).name} (" in text, "and says what it is for"


@pytest.mark.parametrize("file", [*WEIGHTS.values(), *ONNX.values(), "spk2info.pt", "CosyVoice-BlankEN/config.json"])
def test_lfs_pointers(official_copy, file: str) -> None:
    folder = official_copy(2)
    (folder / file).write_text(POINTER)
    text = refused(folder)
    assert Path(file).name in text
    assert "git lfs pull" in text


@pytest.mark.parametrize("file", [*WEIGHTS.values(), *ONNX.values(), "spk2info.pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(official_copy, file: str, share: float) -> None:
    folder = official_copy(2)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(share * len(whole))])
    text = refused(folder)
    assert file in text
    assert "truncated" in text or "damaged" in text


@pytest.mark.parametrize("file", [*WEIGHTS.values(), "spk2info.pt"])
@pytest.mark.parametrize("content", [[1, 2], {"a": "b"}, torch.zeros(3), {"x": {"y": 1}}, {7: torch.zeros(3)}])
def test_files_of_something_else(official_copy, file: str, content: object) -> None:
    folder = official_copy(2)
    torch.save(content, folder / file)
    assert file in refused(folder)


def test_weights_that_do_not_fit(official_copy) -> None:
    folder = official_copy(2)
    state = torch.load(folder / "flow.pt", weights_only=True)
    state["surplus.weight"] = state.pop("encoder.embed.out.0.weight")
    state["encoder_proj.weight"] = torch.zeros(7, 7)
    torch.save(state, folder / "flow.pt")
    text = refused(folder)
    assert "does not fit its cosyvoice2.yaml" in text
    assert "lacks encoder.embed.out.0.weight" in text
    assert "has surplus.weight" in text
    assert "has encoder_proj.weight as [7, 7] where [80, 32] is asked for" in text


@pytest.mark.parametrize("part", list(WEIGHTS))
@pytest.mark.parametrize(("version", "other"), [(1, 2), (2, 3), (3, 2), (2, 1)])
def test_parts_of_another_version(official_model, official_copy, part: str, version: int, other: int) -> None:
    folder = official_copy(version)
    (folder / WEIGHTS[part]).write_bytes((official_model(other) / WEIGHTS[part]).read_bytes())
    text = refused(folder)
    assert f"{WEIGHTS[part]} is of CosyVoice {other}, but cosyvoice" in text
    assert f"describes CosyVoice {version}" in text


def test_the_tokenizer_of_another_network(official_copy) -> None:
    folder = official_copy(2)
    (folder / ONNX["tokenizer"]).write_bytes((folder / ONNX["speaker"]).read_bytes())
    assert "is not a speech tokenizer" in refused(folder)


def test_the_speaker_encoder_of_another_network(official_copy) -> None:
    folder = official_copy(2)
    (folder / ONNX["speaker"]).write_bytes((folder / ONNX["tokenizer"]).read_bytes())
    with pytest.raises(ModelError, match="campplus"):
        OfficialFolder(folder).speaker(torch.zeros(1, 50, 80))


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither fireside\.yaml nor cosyvoice\.yaml, cosyvoice2\.yaml, cosyvoice3"):
        open_folder(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is not a folder of CosyVoice"):
        OfficialFolder(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "llama"}', '{"model_type": "qwen2", "hidden_size": "x"}'])
def test_a_backbone_of_another_kind(official_copy, text: str) -> None:
    folder = official_copy(2)
    (folder / "CosyVoice-BlankEN" / "config.json").write_text(text)
    assert "CosyVoice-BlankEN" in refused(folder, ConfigError)


def test_a_backbone_of_another_size(official_copy) -> None:
    folder = official_copy(3)
    file = folder / "CosyVoice-BlankEN" / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 56', '"hidden_size": 112'))
    text = refused(folder, ConfigError)
    assert "another size" in text
    assert "cosyvoice3.yaml" in text


def test_a_yaml_that_asks_to_run_something(official_copy, tmp_path: Path) -> None:
    folder = official_copy(3)
    file = folder / "cosyvoice3.yaml"
    proof = tmp_path / "proof"
    file.write_text(f"x: !apply:os.system ['touch {proof}']\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert re.search(r"cosyvoice3\.yaml, line 1: the file asks to run 'os\.system'", refused(folder, ConfigError))
    assert not proof.exists()


def test_what_pickles_may_hold(tmp_path: Path) -> None:
    file = tmp_path / "spk2info.pt"
    torch.save({"anna": {"embedding": torch.ones(1, 192)}}, file)
    assert read_speakers(file).keys() == {"anna"}
    assert read_pickle(file)["anna"]["embedding"].shape == (1, 192)
