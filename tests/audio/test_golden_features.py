"""The features and the resampler reproduce the original's, for every stored case."""

from __future__ import annotations

import json
import re

import pytest
import torch

from fireside.audio.features import MelSpectrogram, kaldi_fbank, slaney_filterbank, whisper_log_mel
from fireside.audio.resample import resample

# Tables have no listed tolerance: a float32 rounding or two of their largest entries (about 0.04) is allowed.
TABLE_ATOL = 1e-8


@pytest.fixture
def stated_atol(goldens):
    """The tolerance of a case whose NOTE.md states one for all of its outputs."""

    def read(name):
        note = (goldens / name / "NOTE.md").read_text(encoding="utf-8")
        return float(re.search(r"suggested atol ([\d.e+-]*\d)", note).group(1))

    return read


def with_tolerances(case, extra):
    """The case, with tolerances for outputs that its config lists none for."""
    listed = {key: {"suggested_atol": atol} for key, atol in extra.items()}
    config = json.loads(json.dumps(case.config))
    config["tolerances"] = {**listed, **config.get("tolerances", {})}
    return type(case)(case.name, config, case.weights, case.inputs, case.outputs)


def test_mel_spectrogram(golden_case):
    case = golden_case("mel_spectrogram")
    # All the modules live at once: no table may leak from one configuration into another.
    modules = {
        name: MelSpectrogram(
            sample_rate=p["sampling_rate"],
            n_fft=p["n_fft"],
            hop_length=p["hop_size"],
            win_length=p["win_size"],
            n_mels=p["num_mels"],
            fmin=p["fmin"],
            fmax=p["fmax"],
        )
        for name, p in case.config["params"].items()
        if not p["center"]
    }
    got = {f"{name}_filterbank": module.filterbank for name, module in modules.items()}
    for key, audio in case.inputs.items():
        name = next(name for name in modules if key.startswith(f"{name}_"))
        got[key.replace("_wav", "_mel")] = modules[name](audio)
    with_tolerances(case, {key: TABLE_ATOL for key in got if key.endswith("filterbank")}).compare(got)


def test_whisper_logmel(golden_case, stated_atol):
    case = golden_case("whisper_logmel")
    got = {}
    tolerances = {}
    for key in case.outputs:
        if match := re.fullmatch(r"filterbank(\d+)", key):
            got[key] = torch.tensor(slaney_filterbank(16000, 400, int(match.group(1))))
            tolerances[key] = TABLE_ATOL
        else:
            n_mels = case.outputs[key].shape[-2]
            got[key] = whisper_log_mel(case.inputs[key.replace("_logmel", "_wav16k")], n_mels)
            tolerances[key] = stated_atol("whisper_logmel")
    with_tolerances(case, tolerances).compare(got)


def test_kaldi_fbank(golden_case):
    case = golden_case("kaldi_fbank")
    got = {}
    for key, audio in case.inputs.items():
        name = key.removesuffix("_wav16k")
        got[f"{name}_fbank"] = kaldi_fbank(audio[0])
        got[f"{name}_fbank_meansub"] = kaldi_fbank(audio[0], subtract_mean=True)
    case.compare(got)


def test_resample(golden_case):
    case = golden_case("resample")
    got = {}
    for key in case.outputs:
        orig, new = (int(rate) for rate in key.split("_to_"))
        got[key] = resample(case.inputs[f"{orig}_wav"], orig, new)
    case.compare(got)
