"""CosyVoice's own API: what its methods ask of the model, and that old code gets what it expects."""

from __future__ import annotations

import ast
import inspect
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fireside.compat.cosyvoice import AutoModel, CosyVoice, CosyVoice2, CosyVoice3
from fireside.errors import AudioError, ModelError, TextError, UsageError, VoiceError
from fireside.models.official import OfficialFolder
from fireside.repack import repack
from fireside.request import AudioChunk, SpeechRequest, Timings
from fireside.text.official import OfficialFrontend

SAID = "he said"
SYSTEM = "You are a helpful assistant.<|endofprompt|>"
CLASSES = {1: CosyVoice, 2: CosyVoice2, 3: CosyVoice3}


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    """1.5 s of something that is not silent, [1, n] at 16 kHz."""
    time = torch.arange(24000) / 16000
    return (0.3 * torch.sin(2 * torch.pi * 150 * time) * torch.sin(2 * torch.pi * 3 * time).abs())[None]


@pytest.fixture
def model(official_copy: Callable[[int], Path], home: Path) -> Callable[[int], CosyVoice]:
    return lambda version: AutoModel(model_dir=str(official_copy(version)), normaliser="none")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SpeechRequest]:
    """The requests that reach the engine, none of which is computed."""
    requests: list[SpeechRequest] = []

    def generate(engine: object, request: SpeechRequest) -> Iterator[AudioChunk]:
        requests.append(request)
        for index, length in enumerate((5, 7, 0)):
            yield AudioChunk(np.full(length, index, np.float32), 24000, index, length == 0, Timings())

    monkeypatch.setattr("fireside.engine.engine.Engine.generate", generate)
    return requests


def front(cosyvoice: CosyVoice) -> OfficialFrontend:
    frontend = cosyvoice._tts.engine.frontend
    assert isinstance(frontend, OfficialFrontend)
    return frontend


def ids(cosyvoice: CosyVoice, text: str) -> tuple[int, ...]:
    return tuple(front(cosyvoice).tokenizer.encode(text))


def heard(request: SpeechRequest) -> tuple[int, ...]:
    """The ids of the prompt's transcript that the LM is given."""
    return tuple(token for word in request.voice.card.words for token in word) if request.use_prompt_text else ()


@pytest.mark.parametrize("version", CLASSES)
def test_a_text_becomes_dictionaries_of_tensors(model: Callable[[int], CosyVoice], version: int) -> None:
    cosyvoice = model(version)
    assert type(cosyvoice) is CLASSES[version]
    assert cosyvoice.sample_rate == (22050 if version == 1 else 24000)
    assert cosyvoice.list_available_spks() == ["中文女", "英文男"]
    outputs = list(cosyvoice.inference_sft("he", "中文女"))
    assert [set(output) for output in outputs] == [{"tts_speech"}]
    speech = outputs[0]["tts_speech"]
    assert speech.dtype == torch.float32
    assert speech.shape[0] == 1
    assert speech.shape[1] > 0


def test_chunks_without_sound_are_left_out(model: Callable[[int], CosyVoice], asked: list[SpeechRequest]) -> None:
    outputs = list(model(2).inference_sft("he", "中文女", stream=True, speed=1.5))
    assert [output["tts_speech"].tolist() for output in outputs] == [[[0.0] * 5], [[1.0] * 7]]
    assert (asked[0].streaming, asked[0].speed, asked[0].voice.name) == (True, 1.5, "中文女")


@pytest.mark.parametrize("version", CLASSES)
def test_zero_shot(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor, version: int
) -> None:
    cosyvoice = model(version)
    list(cosyvoice.inference_zero_shot("hello", SAID, prompt))
    assert heard(asked[0]) == ids(cosyvoice, SAID)
    assert asked[0].control == (ids(cosyvoice, SYSTEM) if version == 3 else ())
    assert not asked[0].streaming
    assert len(asked[0].voice.prompt_tokens) > 0


def test_the_prefix_that_cosyvoice_3_asks_for_stands_once(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor
) -> None:
    cosyvoice = model(3)
    own = "You are a helpful assistant. Please speak slowly.<|endofprompt|>"
    list(cosyvoice.inference_zero_shot("hello", SYSTEM + SAID, prompt))
    list(cosyvoice.inference_zero_shot("hello", own + SAID, prompt))
    list(cosyvoice.inference_cross_lingual(SYSTEM + "[breath]hello", prompt))
    list(cosyvoice.inference_cross_lingual("hello", prompt))
    list(cosyvoice.inference_sft("hello", "中文女"))
    expected = [ids(cosyvoice, told) for told in (SYSTEM, own, SYSTEM, SYSTEM, SYSTEM)]
    assert [request.control for request in asked] == expected
    assert [heard(request) for request in asked] == [ids(cosyvoice, SAID)] * 2 + [()] * 3
    [piece] = front(cosyvoice).pieces(str(asked[2].text))
    assert piece.tokens == ids(cosyvoice, "[breath]hello")


@pytest.mark.parametrize(
    ("version", "told", "expected"),
    [
        (2, "Slowly", "Slowly<|endofprompt|>"),
        (2, "Slowly<|endofprompt|>", "Slowly<|endofprompt|>"),
        (3, "Slowly", "You are a helpful assistant. Slowly<|endofprompt|>"),
    ],
)
def test_instruct2(
    model: Callable[[int], CosyVoice2],
    asked: list[SpeechRequest],
    prompt: torch.Tensor,
    version: int,
    told: str,
    expected: str,
) -> None:
    cosyvoice = model(version)
    list(cosyvoice.inference_instruct2("hello", told, prompt, stream=True))
    assert asked[0].control == ids(cosyvoice, expected)
    assert heard(asked[0]) == ()
    assert len(asked[0].voice.prompt_tokens) > 0  # the flow keeps the prompt


def test_instruct_is_for_the_instruct_model(model: Callable[[int], CosyVoice]) -> None:
    with pytest.raises(UsageError, match="use inference_instruct2"):
        model(2).inference_instruct("hello", "中文女", "A calm voice.")
    with pytest.raises(UsageError, match="cannot follow instructions"):
        list(model(1).inference_instruct("hello", "中文女", "A calm voice."))


def test_instruct_of_the_instruct_model(
    official_model: Callable[[int], Path], tmp_path: Path, home: Path, asked: list[SpeechRequest]
) -> None:
    folder = shutil.copytree(official_model(1), tmp_path / "CosyVoice-300M-Instruct")
    cosyvoice = CosyVoice(folder, normaliser="none")
    list(cosyvoice.inference_instruct("hello", "中文女", "A calm voice."))
    assert asked[0].control == ids(cosyvoice, "A calm voice.<endofprompt>")
    assert not asked[0].use_speaker


def test_a_generator_of_text_is_spoken_part_by_part(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor
) -> None:
    parts = ["hel", "lo"]
    list(model(2).inference_zero_shot((part for part in parts), SAID, prompt))
    assert not isinstance(asked[0].text, str)
    assert not asked[0].join_parts
    assert list(asked[0].text) == parts


def test_without_text_frontend_nothing_is_rewritten(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor
) -> None:
    cosyvoice = model(2)
    list(cosyvoice.inference_zero_shot("3 cats", "2 dogs", prompt, text_frontend=False))
    assert not asked[0].normalise
    assert heard(asked[0]) == ids(cosyvoice, "2 dogs")


def test_prompts_may_be_files_open_files_and_tensors(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.wav"
    soundfile.write(file, prompt[0].numpy(), 16000, subtype="FLOAT")
    cosyvoice = model(2)
    for source in (prompt, str(file), file):
        list(cosyvoice.inference_vc(source, source))
    list(cosyvoice.inference_vc(io.BytesIO(file.read_bytes()), io.BytesIO(file.read_bytes())))
    assert all(request.tokens and request.tokens == asked[0].tokens for request in asked)
    assert all(np.array_equal(request.voice.prompt_mel, asked[0].voice.prompt_mel) for request in asked)
    with pytest.raises(UsageError, match="no prompt"):
        list(cosyvoice.inference_zero_shot("hello", SAID, ""))
    with pytest.raises(AudioError):
        list(cosyvoice.inference_zero_shot("hello", SAID, str(tmp_path / "none.wav")))


@pytest.mark.parametrize("version", [1, 3])
def test_saved_voices_are_there_again(
    model: Callable[[int], CosyVoice], asked: list[SpeechRequest], prompt: torch.Tensor, version: int
) -> None:
    cosyvoice = model(version)
    assert cosyvoice.add_zero_shot_spk(SAID, prompt, "我的 voice") is True
    list(cosyvoice.inference_zero_shot("hello", "", "", zero_shot_spk_id="我的 voice"))
    cosyvoice.save_spkinfo()
    again = AutoModel(model_dir=cosyvoice.model_dir, normaliser="none")
    assert again.list_available_spks() == ["中文女", "英文男", "我的 voice"]
    list(again.inference_zero_shot("hello", "", "", zero_shot_spk_id="我的 voice"))
    assert asked[0].control == asked[1].control
    assert heard(asked[0]) == heard(asked[1]) == ids(cosyvoice, SAID)
    assert asked[0].voice.fingerprint == asked[1].voice.fingerprint
    # The original reads the file, too: version 3's prompt text must hold <|endofprompt|>.
    folder = again._tts.model
    assert isinstance(folder, OfficialFolder)
    saved = folder.speakers["我的 voice"]["prompt_text"][0].tolist()
    assert tuple(saved) == (ids(cosyvoice, SYSTEM) if version == 3 else ()) + ids(cosyvoice, SAID)


def test_voices_of_a_converted_folder_are_saved_among_the_users(
    official_model: Callable[[int], Path], tmp_path: Path, home: Path, prompt: torch.Tensor
) -> None:
    repack(OfficialFolder(official_model(3)), tmp_path / "converted")
    for _ in range(2):  # the second time the voice is replaced
        cosyvoice = AutoModel(model_dir=tmp_path / "converted", normaliser="none")
        cosyvoice.add_zero_shot_spk(SAID, prompt, "mine")
        cosyvoice.save_spkinfo()
    again = AutoModel(model_dir=tmp_path / "converted", normaliser="none")
    assert sorted(again.list_available_spks()) == ["mine", "中文女", "英文男"]
    assert again._voice("mine").card.words == (ids(again, SAID),)


def test_voices_that_are_not_there(model: Callable[[int], CosyVoice], prompt: torch.Tensor) -> None:
    cosyvoice = model(2)
    with pytest.raises(VoiceError, match="中文女"):
        list(cosyvoice.inference_sft("hello", "中文男"))
    with pytest.raises(VoiceError):
        list(cosyvoice.inference_zero_shot("hello", "", "", zero_shot_spk_id="nobody"))
    with pytest.raises(UsageError, match="zero_shot_spk_id is empty"):
        cosyvoice.add_zero_shot_spk(SAID, prompt, "")
    with pytest.raises(TextError):
        list(cosyvoice.inference_sft("。。。", "中文女"))


def test_a_folder_of_another_version(official_model: Callable[[int], Path], tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="is not for CosyVoice3: use CosyVoice2 or AutoModel"):
        CosyVoice3(official_model(2))
    with pytest.raises(ModelError, match=r"use fireside\.load"):
        AutoModel(model_dir=tiny_model)


def test_a_name_is_looked_for_on_modelscope(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match="ModelScope needs the package modelscope"):
        AutoModel(model_dir="iic/CosyVoice2-0.5B")


def test_options_that_have_no_effect_are_named(
    official_model: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    CosyVoice2(official_model(2), load_jit=True, load_trt=True)
    assert "load_jit, load_trt has no effect" in caplog.text


def test_fp16_is_for_gpus(
    official_model: Callable[[int], Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the original: a warning on a CPU, half precision on a GPU."""
    assert CosyVoice2(official_model(2), fp16=True, device="cpu")._tts.model.dtype == torch.float32
    assert "fp16 has no effect without a GPU" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    model = CosyVoice2(official_model(2), fp16=True)._tts.model
    assert (model.dtype, model.device) == (torch.float16, torch.device("cuda", 0))
    assert CosyVoice2(official_model(2))._tts.model.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (CosyVoice, "model_dir load_jit load_trt fp16 trt_concurrent"),
        (CosyVoice2, "model_dir load_jit load_trt load_vllm fp16 trt_concurrent"),
        (CosyVoice3, "model_dir load_trt load_vllm fp16 trt_concurrent"),
        (CosyVoice.inference_sft, "self tts_text spk_id stream speed text_frontend"),
        (
            CosyVoice.inference_zero_shot,
            "self tts_text prompt_text prompt_wav zero_shot_spk_id stream speed text_frontend",
        ),
        (CosyVoice.inference_cross_lingual, "self tts_text prompt_wav zero_shot_spk_id stream speed text_frontend"),
        (CosyVoice.inference_instruct, "self tts_text spk_id instruct_text stream speed text_frontend"),
        (
            CosyVoice2.inference_instruct2,
            "self tts_text instruct_text prompt_wav zero_shot_spk_id stream speed text_frontend",
        ),
        (CosyVoice.inference_vc, "self source_wav prompt_wav stream speed"),
        (CosyVoice.add_zero_shot_spk, "self prompt_text prompt_wav zero_shot_spk_id"),
    ],
)
def test_arguments_stand_in_the_originals_order(make: Callable[..., object], options: str) -> None:
    found = inspect.signature(make).parameters.values()
    assert " ".join(each.name for each in found if each.kind is not inspect.Parameter.KEYWORD_ONLY) == options


def test_the_documentation_calls_what_there_is() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "cosyvoice.md").read_text(encoding="utf-8")
    calls = 0
    for example in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {keyword.arg: None for keyword in node.keywords}
                inspect.signature(getattr(CosyVoice2, node.func.attr)).bind(None, *node.args, **keywords)
                calls += 1
    assert calls >= 4
