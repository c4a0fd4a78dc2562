"""A folder of trainings becomes a model folder that loads and speaks."""

import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from fireside import load
from fireside.errors import ModelError
from fireside.models.checkpoint import PARTS
from fireside.text.phones import FIRST_SPOKEN_ID
from fireside.train.data import FeatureStore
from fireside.train.package import package

# Voice, language, rate, seconds; prompts are of 2.8 to 5 seconds.
UTTERANCES = [
    ("af_heart", "en", 1.0, 3.0),
    ("af_heart", "en", 1.0, 2.0),
    ("am_michael", "en", 1.0, 4.0),
    ("bf_emma", "en", 1.1, 4.0),
    ("zf_xiaobei", "zh", 1.0, 1.0),
    ("af_heart:0.5+bf_emma:0.5", "en", 1.0, 4.0),
]


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for name, module in tiny.parts().items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(getattr(tiny.CONFIG, name).model_dump_json())
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / name / f"{name}.safetensors")
    dit = tiny.CONFIG.flow.dit
    (folder / "adaptation").mkdir()
    adaptation = torch.arange(0.0, dit.modulations * dit.dim).view(-1, dit.dim) / 1000
    save_file({"adaptation": adaptation}, folder / "adaptation" / "adaptation.safetensors")
    features = folder / "features"
    features.mkdir()
    rows, first = [], 0
    with (features / "blocks.jsonl").open("w") as blocks:
        for i, (voice, lang, speed, seconds) in enumerate(UTTERANCES):
            tokens = round(25 * seconds)
            row = {"utt": f"u{i}", "spk": voice, "lang": lang, "speed": speed, "duration": seconds, "text": "Hello."}
            rows.append({**row, "split": "train", "corpus": "kokoro", "number": i, "tokens": tokens})
            rows[-1]["first_token"] = first
            first += tokens
            words = {"words": [[FIRST_SPOKEN_ID]], "word_ends": [tokens]}
            blocks.write(json.dumps({"utt": f"u{i}", **words}) + "\n")
    (features / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store, rng = FeatureStore(features), np.random.default_rng(0)
    store.write("tokens", [rng.integers(0, tiny.CODES, row["tokens"]) for row in rows])
    store.write("phones", [np.full(row["tokens"], FIRST_SPOKEN_ID) for row in rows])
    embeddings = rng.standard_normal((len(rows), 192)).astype(np.float32)
    store.write_embeddings(embeddings, np.stack([embeddings] * 2, axis=1))
    rng.standard_normal((2 * first, 80)).astype("<f2").tofile(features / "mel.f16")
    return folder


def test_a_packaged_folder_speaks_in_its_named_voices(runs, tmp_path, home):
    out = tmp_path / "model"
    package(runs, out, "small", "am_michael", "float16", ["tokenizer"])
    assert {file.name for file in out.iterdir()} == {"fireside.yaml", "voices", *(f"{p}.safetensors" for p in PARTS)}
    # Not the one who only spoke faster, the one without a long enough utterance, or the blend.
    assert sorted(file.stem for file in (out / "voices").glob("*.json")) == ["af_heart", "am_michael"]
    tts = load(str(out))
    assert np.isfinite(tts.say("Hello.", seed=1).samples).all()
    assert tts.model.config.flow.calibrate
    assert tts.model.config.flow.adapt
    known = load_file(runs / "adaptation" / "adaptation.safetensors")["adaptation"]
    torch.testing.assert_close(tts.model.flow.adaptation, known)
    voice = tts.voice("af_heart")
    assert voice.calibration is None, "the flow has learned the voices of its own"
    assert voice.adaptation is None
    assert {voice.name for voice in tts.voices} == {"default", "af_heart", "am_michael"}


def test_a_flow_that_fits_nobody_yet_is_refused(runs, tmp_path):
    (runs / "adaptation" / "adaptation.safetensors").unlink()
    with pytest.raises(ModelError, match=r"fireside\.train\.adaptation"):
        package(runs, tmp_path / "model", "small", "af_heart", "float16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("voice", ["zf_xiaobei", "bf_emma"])
def test_a_default_voice_without_a_prompt_is_refused_before_anything_is_written(runs, tmp_path, voice):
    with pytest.raises(ModelError, match=f"no voice {voice} .* choose one of af_heart, am_michael"):
        package(runs, tmp_path / "model", "small", voice, "float16")
    assert not (tmp_path / "model").exists()


def test_a_part_that_was_not_trained_is_named(runs, tmp_path):
    (runs / "flow" / "config.json").unlink()
    with pytest.raises(ModelError, match="train the flow first"):
        package(runs, tmp_path / "model", "small", "af_heart", "float16")
