"""CosyVoice's own Python API: `from fireside.compat.cosyvoice import AutoModel` in place of
`from cosyvoice.cli.cosyvoice import AutoModel`.

What differs, on purpose: errors are those of `fireside.errors` with a sentence, not assertions; a prompt may be longer
than 30 s; `<|endofprompt|>` and CosyVoice 3's system sentence may be left out; the text normaliser is the one that is
asked for (`normaliser=`), never another one because it is not installed. `load_jit`, `load_trt`, `load_vllm` and
`trt_concurrent` are accepted and have no effect: their formats are not Fireside's. `fp16` is half precision on a GPU
and nothing on a CPU, as in the original."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from fireside.enrol import Source
from fireside.errors import ModelError, UsageError
from fireside.hub import resolve
from fireside.models.device import find_device
from fireside.models.official import SPEAKERS_FILE, OfficialFolder, open_folder
from fireside.request import SpeechRequest
from fireside.spk2info import record_of, write_spk2info
from fireside.text.official import Choice, OfficialFrontend
from fireside.text.official.normalise import DEFAULT as DEFAULT_NORMALISER
from fireside.tts import load
from fireside.voices import DEFAULT, Voice

PROMPT_RATE = 16000
"""Sample rate of prompts that come as tensors, as the original's `load_wav(file, 16000)` makes them."""

Prompt = str | PathLike[str] | BinaryIO | Tensor
"""A recording: a file, an open file, or samples [1, n] at PROMPT_RATE."""

Text = str | Iterable[str]
"""What to say: a text, or a generator of its parts (CosyVoice 2 and 3)."""

Outputs = Iterator[dict[str, Tensor]]
"""`tts_speech` [1, samples] float32 for every piece of the text, or for every chunk when streaming."""

_log = logging.getLogger(__name__)


class CosyVoice:
    """CosyVoice-300M, -SFT and -Instruct."""

    kind: ClassVar[str] = "cosyvoice1"

    def __init__(
        self,
        model_dir: str | PathLike[str],
        load_jit: bool = False,
        load_trt: bool = False,
        fp16: bool = False,
        trt_concurrent: int = 1,
        *,
        normaliser: Choice = DEFAULT_NORMALISER,
        device: str = "auto",
    ) -> None:
        """`model_dir`: a folder, or a name on ModelScope. fp16: LM and flow in half precision, on a GPU. device: as in
        `fireside.load`; the original takes a GPU where there is one, as `auto` does. Raises ModelError for another
        version's folder, UsageError for a device that cannot be used."""
        self._load(model_dir, normaliser, device, fp16, load_jit=load_jit, load_trt=load_trt)

    def _load(
        self, model_dir: str | PathLike[str], normaliser: Choice, device: str, fp16: bool, **unused: bool
    ) -> None:
        place = find_device(device)
        folder = _folder(model_dir)
        if fp16 and place.type == "cpu":
            _log.warning("fp16 has no effect without a GPU: LM and flow are computed in float32.")
            fp16 = False
        self._tts = load(folder, precision="fp16" if fp16 else "fp32", normaliser=normaliser, device=str(place))
        kind = self._tts.model.config.frontend
        if kind != self.kind:
            raise ModelError(f"{folder} is not for {type(self).__name__}: {_advice(kind)}.")
        asked = [name for name, value in unused.items() if value]
        if asked:
            _log.warning("%s has no effect: Fireside computes without it.", ", ".join(asked))
        self.model_dir = str(folder)
        self._added: dict[str, Voice] = {}

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self._tts.sample_rate

    def list_available_spks(self) -> list[str]:
        """Names of the model's voices in the order of its spk2info.pt, then of the user's and of the added ones."""
        model = self._tts.model
        first = model.speakers if isinstance(model, OfficialFolder) else {}
        others = (card.name for card in self._tts.voices if card.name != DEFAULT)
        return list(dict.fromkeys([*first, *others, *self._added]))

    def add_zero_shot_spk(self, prompt_text: str, prompt_wav: Prompt, zero_shot_spk_id: str) -> bool:
        """Keep a recording as the voice of that name while this object lives; see `save_spkinfo`."""
        if not zero_shot_spk_id:
            raise UsageError("The zero_shot_spk_id is empty: give the voice a name.")
        self._added[zero_shot_spk_id] = self._make_voice(prompt_text, prompt_wav, True, zero_shot_spk_id)
        return True

    def save_spkinfo(self) -> None:
        """Keep the voices that were added: in the folder's spk2info.pt, as the original reads it; of a model that was
        converted to Fireside's format, among the user's voices.

        Raises VoiceError when they cannot be written.
        """
        model = self._tts.model
        if isinstance(model, OfficialFolder):
            added = {name: record_of(self._with_instruction(voice)) for name, voice in self._added.items()}
            write_spk2info(model.path / SPEAKERS_FILE, {**model.speakers, **added})
            return
        saved = {card.name for card in self._tts.voices}
        for name, voice in self._added.items():
            if name in saved:
                self._tts.remove_voice(name)
            self._tts.add_voice(voice)

    def inference_sft(
        self, tts_text: Text, spk_id: str, stream: bool = False, speed: float = 1.0, text_frontend: bool = True
    ) -> Outputs:
        """Say a text in a named voice."""
        yield from self._say(tts_text, self._voice(spk_id), stream, speed, text_frontend)

    def inference_zero_shot(
        self,
        tts_text: Text,
        prompt_text: str,
        prompt_wav: Prompt,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Outputs:
        """Say a text in the voice of a recording, `prompt_text` being what is said in it; or in an added voice."""
        if isinstance(tts_text, str) and len(tts_text) < 0.5 * len(prompt_text):
            _log.warning("The text '%s' is much shorter than the prompt's, which may sound worse.", tts_text)
        voice = self._prompted(prompt_text, prompt_wav, zero_shot_spk_id, text_frontend)
        yield from self._say(tts_text, voice, stream, speed, text_frontend)

    def inference_cross_lingual(
        self,
        tts_text: Text,
        prompt_wav: Prompt,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Outputs:
        """Say a text in the voice of a recording in any language."""
        voice = self._prompted("", prompt_wav, zero_shot_spk_id, text_frontend)
        yield from self._say(tts_text, voice, stream, speed, text_frontend, use_transcript=False)

    def inference_instruct(
        self,
        tts_text: Text,
        spk_id: str,
        instruct_text: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Outputs:
        """Say a text in a named voice as told (CosyVoice-300M-Instruct)."""
        yield from self._say(tts_text, self._voice(spk_id), stream, speed, text_frontend, instruction=instruct_text)

    def inference_vc(self, source_wav: Prompt, prompt_wav: Prompt, stream: bool = False, speed: float = 1.0) -> Outputs:
        """The words of one recording in the voice of another."""
        voice = self._make_voice("", prompt_wav, True)
        yield from self._outputs(self._tts.conversion(_source(source_wav), voice, speed=speed, streaming=stream))

    def _say(
        self, text: Text, voice: Voice, stream: bool, speed: float, text_frontend: bool, **options: Any
    ) -> Outputs:
        yield from self._outputs(
            self._tts.request(
                text, voice, speed=speed, streaming=stream, normalise=text_frontend, join_parts=False, **options
            )
        )

    def _outputs(self, request: SpeechRequest) -> Outputs:
        for chunk in self._tts.chunks(request):
            if len(chunk.samples):
                yield {"tts_speech": torch.from_numpy(np.ascontiguousarray(chunk.samples))[None]}

    def _voice(self, name: str) -> Voice:
        return self._added[name] if name in self._added else self._tts.voice(name)

    def _prompted(self, prompt_text: str, prompt_wav: Prompt, name: str, normalise: bool) -> Voice:
        return self._voice(name) if name else self._make_voice(prompt_text, prompt_wav, normalise)

    def _make_voice(self, prompt_text: str, prompt_wav: Prompt, normalise: bool, name: str = "prompt") -> Voice:
        voice = self._tts.make_voice(
            _source(prompt_wav), prompt_text or None, normalise=normalise, on_note=_log.warning
        )
        return replace(voice, card=replace(voice.card, name=name))

    def _with_instruction(self, voice: Voice) -> Voice:
        """The voice with the system sentence that CosyVoice 3 asks for in a prompt's text, if it is not there."""
        frontend = self._tts.engine.frontend
        words = tuple(token for word in voice.card.words for token in word)
        if not isinstance(frontend, OfficialFrontend) or not words or frontend.split_prompt(words)[0]:
            return voice
        return replace(voice, card=replace(voice.card, words=(frontend.instruction() + words,)))


class CosyVoice2(CosyVoice):
    """CosyVoice2-0.5B."""

    kind: ClassVar[str] = "cosyvoice2"

    def __init__(
        self,
        model_dir: str | PathLike[str],
        load_jit: bool = False,
        load_trt: bool = False,
        load_vllm: bool = False,
        fp16: bool = False,
        trt_concurrent: int = 1,
        *,
        normaliser: Choice = DEFAULT_NORMALISER,
        device: str = "auto",
    ) -> None:
        """See CosyVoice."""
        self._load(model_dir, normaliser, device, fp16, load_jit=load_jit, load_trt=load_trt, load_vllm=load_vllm)

    def inference_instruct(
        self,
        tts_text: Text,
        spk_id: str,
        instruct_text: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Outputs:
        """CosyVoice 1's. Raises UsageError."""
        raise UsageError("inference_instruct is for CosyVoice-300M-Instruct: use inference_instruct2 with this model.")

    def inference_instruct2(
        self,
        tts_text: Text,
        instruct_text: str,
        prompt_wav: Prompt,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Outputs:
        """Say a text in the voice of a recording as told; `<|endofprompt|>` may be left out of `instruct_text`."""
        voice = self._prompted("", prompt_wav, zero_shot_spk_id, text_frontend)
        yield from self._say(tts_text, voice, stream, speed, text_frontend, instruction=instruct_text)


class CosyVoice3(CosyVoice2):
    """Fun-CosyVoice3-0.5B."""

    kind: ClassVar[str] = "cosyvoice3"

    def __init__(
        self,
        model_dir: str | PathLike[str],
        load_trt: bool = False,
        load_vllm: bool = False,
        fp16: bool = False,
        trt_concurrent: int = 1,
        *,
        normaliser: Choice = DEFAULT_NORMALISER,
        device: str = "auto",
    ) -> None:
        """See CosyVoice."""
        self._load(model_dir, normaliser, device, fp16, load_trt=load_trt, load_vllm=load_vllm)


_CLASSES: dict[str, type[CosyVoice]] = {each.kind: each for each in (CosyVoice, CosyVoice2, CosyVoice3)}


def AutoModel(model_dir: str | PathLike[str], **options: Any) -> CosyVoice:
    """The class that a folder is for, made with the options of its constructor.

    Raises ModelError for a folder that is not CosyVoice's.
    """
    folder = _folder(model_dir)
    kind = open_folder(folder).config.frontend
    if kind not in _CLASSES:
        raise ModelError(f"{folder} is not a model of CosyVoice: {_advice(kind)}.")
    return _CLASSES[kind](folder, **options)


def _folder(model_dir: str | PathLike[str]) -> Path:
    """A folder, or the download of a name on ModelScope, where the original looks; 'hf:org/name' is on Hugging Face."""
    name = str(model_dir)
    if Path(name).expanduser().exists() or ":" in name:
        return resolve(name)
    return resolve(f"modelscope:{name}")


def _advice(kind: str) -> str:
    if kind in _CLASSES:
        return f"use {_CLASSES[kind].__name__} or AutoModel"
    return "use fireside.load"


def _source(prompt: Prompt) -> Source:
    if isinstance(prompt, Tensor):
        return prompt.detach().cpu().float().numpy(), PROMPT_RATE
    if isinstance(prompt, (str, PathLike)):
        if not str(prompt):
            raise UsageError(
                "There is no prompt: give a recording as prompt_wav, or an added voice's zero_shot_spk_id."
            )
        return Path(prompt)
    return prompt.read()
