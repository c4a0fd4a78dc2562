"""The released CAM++ through our features and in our module, on the corpus's speech."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
import soundfile
import torch

from fireside.audio.features import kaldi_fbank
from fireside.audio.resample import resample
from fireside.errors import ModelError
from fireside.models.config import SpeakerConfig
from fireside.models.speaker import SpeakerEncoder, weights_from_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="the teacher is an ONNX file (extra 'train')")
pytest.importorskip("onnx", reason="weights are read out of an ONNX file (extra 'train')")
parquet = pytest.importorskip("pyarrow.parquet", reason="the corpus is parquet (extra 'train')")


@pytest.fixture(scope="module")
def fbanks(shared) -> list[tuple[str, torch.Tensor]]:
    """Speaker and mean-subtracted fbank of the first three utterances of each of four named voices."""
    table = parquet.read_table(shared / "corpus" / "w0-000.parquet", columns=["spk", "audio", "duration"]).to_pylist()
    found: dict[str, list[torch.Tensor]] = {}
    for row in table:
        voice = found.setdefault(row["spk"], [])
        if "+" in row["spk"] or len(voice) == 3 or row["duration"] < 3:
            continue
        audio, rate = soundfile.read(io.BytesIO(row["audio"]), dtype="float32")
        voice.append(kaldi_fbank(resample(torch.from_numpy(audio), rate, 16000), subtract_mean=True))
    full = [(speaker, fbank) for speaker, voice in found.items() if len(voice) == 3 for fbank in voice]
    return full[:12]


@pytest.fixture(scope="module")
def session(shared):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(shared / "models" / "campplus.onnx"), options)


def test_same_voice_scores_higher_than_different_voices(fbanks, session):
    embeddings = []
    for speaker, fbank in fbanks:
        embedding = session.run(None, {"input": fbank[None].numpy()})[0][0]
        embeddings.append((speaker, embedding / np.linalg.norm(embedding)))
    same = [a @ b for (s, a), (t, b) in combinations(embeddings, 2) if s == t]
    different = [a @ b for (s, a), (t, b) in combinations(embeddings, 2) if s != t]
    assert len(same) == 12
    assert min(same) > max(different)
    assert np.mean(same) > 0.8 > 0.5 > np.mean(different)


def test_our_module_with_the_released_weights_equals_onnx_runtime(fbanks, session, shared):
    model = SpeakerEncoder(SpeakerConfig())
    model.load_state_dict(weights_from_onnx(str(shared / "models" / "campplus.onnx"), SpeakerConfig()))
    model.eval()
    for (_, fbank), frames in zip(fbanks, (98, 200, 201, 300, None), strict=False):
        features = fbank[:frames].unsqueeze(0)
        expected = session.run(None, {"input": features.numpy()})[0]
        with torch.inference_mode():
            got = model(features).numpy()
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_weights_of_other_sizes_are_refused(shared):
    with pytest.raises(ModelError, match="does not hold a CAM"):
        weights_from_onnx(str(shared / "models" / "campplus.onnx"), SpeakerConfig(head_channels=16))
