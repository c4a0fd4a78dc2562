"""The parts that official models ship as ONNX files, run by ONNX Runtime: speech tokenizers and CAM++."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from fireside.errors import AudioError, ModelError
from fireside.models.config import OnnxSpeakerConfig, OnnxTokenizerConfig
from fireside.models.device import CPU
from fireside.models.files import check_whole

CUDA = "CUDAExecutionProvider"
FRAME_RATE = 100
"""Log-mel frames a second."""
OVERLAP_SECONDS = 4.0
"""What two windows of a long recording share; each gives the half that is further from its own edge."""

TOKENIZER_PURPOSE = "it turns recordings into speech tokens: for zero-shot and cross-lingual prompts, and conversion"
SPEAKER_PURPOSE = "it hears whose voice a recording has: for prompts, and conversion"


def _session(file: Path, purpose: str, device: torch.device) -> onnxruntime.InferenceSession:
    """A session with torch's number of threads. Raises ModelError for a file that is none."""
    check_whole(file, purpose)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers(device))
    except Exception as error:  # ONNX Runtime has a class for every way of being damaged
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file} is truncated or not an ONNX network ({reason}): get it again.") from error


def providers(device: torch.device) -> list[str | tuple[str, dict[str, int]]]:
    """What ONNX Runtime computes with: an NVIDIA GPU where it can (it is another package then), else the CPU."""
    if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
        return [(CUDA, {"device_id": device.index or 0}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], file: Path) -> np.ndarray:
    try:
        return np.asarray(session.run(None, inputs)[0])
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file} does not compute what its name says ({reason}): get it again.") from error


class OnnxTokenizer:
    """Whisper log-mel to speech tokens, as `SpeechTokenizer.encode`. Raises ModelError for a file that is not one.

    device: what it is computed on where ONNX Runtime can; tensors come from and go to the CPU.
    """

    def __init__(self, file: Path, config: OnnxTokenizerConfig, device: torch.device = CPU) -> None:
        self.file = file
        self.config = config
        self._session = _session(file, TOKENIZER_PURPOSE, device)
        inputs = self._session.get_inputs()
        mels = inputs[0].shape[1] if inputs and len(inputs[0].shape) == 3 else None
        if len(inputs) != 2 or (isinstance(mels, int) and mels != config.n_mels):
            raise ModelError(f"{file} is not a speech tokenizer of CosyVoice: get it again.")
        self._features, self._length = inputs[0].name, inputs[1].name
        self._length_type = np.int64 if inputs[1].type == "tensor(int64)" else np.int32

    @property
    def ratio(self) -> int:
        """Log-mel frames of a token."""
        return FRAME_RATE // self.config.token_rate

    def encode(self, log_mel: Tensor) -> Tensor:
        """log_mel [1, n_mels, frames] of one recording -> tokens int64 [1, T], of any length.

        What is longer than the network takes goes through it in windows that overlap. Raises AudioError if empty.
        """
        features = log_mel.detach().float().cpu().numpy()
        frames, ratio = features.shape[2], self.ratio
        if frames < ratio:
            raise AudioError("The recording is too short: give at least one second of speech.")
        window = int(self.config.max_seconds * FRAME_RATE)
        half = int(OVERLAP_SECONDS * FRAME_RATE) // 2 // ratio * ratio
        step = (window - 2 * half) // ratio * ratio
        tokens: list[np.ndarray] = []
        start = 0
        while True:
            last = start + window >= frames
            part = self._encode(features[:, :, start : start + window])
            first = half // ratio if start else 0
            tokens.append(part[first:] if last else part[first : (half + step) // ratio])
            if last:
                return torch.from_numpy(np.concatenate(tokens).astype(np.int64))[None]
            start += step

    def _encode(self, features: np.ndarray) -> np.ndarray:
        length = np.array([features.shape[2]], self._length_type)
        return _run(self._session, {self._features: features, self._length: length}, self.file).reshape(-1)


class OnnxSpeaker:
    """Kaldi fbank to speaker embedding, as `SpeakerEncoder`. Raises ModelError for a file that is not one.

    device: as in OnnxTokenizer.
    """

    def __init__(self, file: Path, config: OnnxSpeakerConfig, device: torch.device = CPU) -> None:
        self.file = file
        self.config = config
        self._session = _session(file, SPEAKER_PURPOSE, device)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, features: Tensor) -> Tensor:
        """Mean-subtracted fbank [batch, frames, 80] to embeddings [batch, embedding_dim], not normalised."""
        rows = [
            _run(self._session, {self._input: row[None]}, self.file).reshape(-1)
            for row in features.detach().float().cpu().numpy()
        ]
        if any(row.size != self.config.embedding_dim for row in rows):
            raise ModelError(
                f"{self.file} is not a speaker encoder of {self.config.embedding_dim} numbers: get it again."
            )
        return torch.from_numpy(np.stack(rows).astype(np.float32))
