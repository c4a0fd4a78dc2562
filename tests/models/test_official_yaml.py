"""Official YAMLs are read, not executed, and what is wrong in them is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fireside.errors import ConfigError
from fireside.models.official_classes import CLASSES
from fireside.models.official_config import read_official
from fireside.models.official_yaml import Call, read_official_yaml

SAMPLER = "cosyvoice.utils.common.ras_sampling"


@pytest.fixture
def read(tmp_path: Path):
    """Read a document of which the sampler is the only known function."""

    def call(text: str) -> dict:
        file = tmp_path / "cosyvoice.yaml"
        file.write_text(text, encoding="utf-8")
        return read_official_yaml(file, {SAMPLER})

    return call


def test_calls_are_records(read) -> None:
    document = read(f"a: !name:{SAMPLER}\n    top_p: 0.8\n    more: {{deep: [1, 2]}}\nb: !new:{SAMPLER}\n")
    assert document["a"] == Call("name", SAMPLER, {"top_p": 0.8, "more": {"deep": [1, 2]}}, 1)
    assert document["b"].arguments == {}


def test_references(read) -> None:
    document = read(
        "rate: 25\nratio: 2\nchunk: !ref <rate> * <ratio> # a note\nhalf: !ref (<rate> + 1) / 2\nsame: !ref <list>\n"
        "list: [!ref <rate>, {x: !ref <call.top_k>}]\nname: !ref <folder>/<file>.pt\nfolder: models\n"
        "file: !ref <folder>\n"
        f"call: !name:{SAMPLER}\n    top_k: !ref <chunk>\nsmall: 1e-06\nnegative: !ref -<rate>\n"
    )
    assert document["chunk"] == 50
    assert document["half"] == 13.0
    assert document["same"] == document["list"] == [25, {"x": 50}]
    assert document["name"] == "models/models.pt"
    assert document["call"].arguments == {"top_k": 50}
    assert document["small"] == 1e-6
    assert document["negative"] == -25


def test_seeding_of_random_generators_is_passed_over(read) -> None:
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    document = read("__set_seed1: !apply:random.seed [1986]\nx: 1\n")
    assert document == {"x": 1}
    assert random.random() == expected


@pytest.mark.parametrize(
    "text",
    [
        "a: !ref <b>\nb: !ref <c>\nc: !ref <a>\n",
        "a: !ref <a>\n",
        "a: [1, {x: !ref <a>}]\n",
        "a: !ref <b> * 2\nb: !ref <a>\n",
        "a:\n    b: !ref <a.b>\n",
    ],
)
def test_circles_are_named(read, text: str) -> None:
    with pytest.raises(ConfigError, match=r"circle: \S+ -> \S+"):
        read(text)


@pytest.mark.parametrize("command", ["os.system", "subprocess.run", "builtins.eval", "random.seed.evil"])
def test_nothing_is_run(read, tmp_path: Path, command: str) -> None:
    proof = tmp_path / "proof"
    for value in (f"!apply:{command} ['touch {proof}']", f"[[!apply:{command} ['touch {proof}']]]"):
        with pytest.raises(ConfigError, match=rf"line 2: the file asks to run '{re.escape(command)}'"):
            read(f"fine: 1\nx: {value}\n")
    assert not proof.exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!module:os", "!include:/etc/passwd", "!new"]
)
def test_other_tags_are_refused(read, tmp_path: Path, tag: str) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(ConfigError, match=re.escape(tag.replace("!!", "tag:yaml.org,2002:"))):
        read(f"x: {tag} ['touch {proof}']\n")
    assert not proof.exists()


@pytest.mark.parametrize("tag", ["new", "name"])
def test_unknown_classes_are_named(read, tag: str) -> None:
    with pytest.raises(ConfigError, match=r"line 3: 'evil\.Thing' is not a (class|function) of CosyVoice"):
        read(f"fine: 1\ndeep:\n    - !{tag}:evil.Thing\n        x: 1\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x: !ref <nowhere>\n", "!ref <nowhere> names a key that is not in the file"),
        (f"x: !new:{SAMPLER} [1, 2]\n", "must be named ones"),
        ("x: !ref [a]\n", "!ref needs a name"),
        ("- 1\n- 2\n", "no keys at its top"),
        ("just words\n", "no keys at its top"),
        ("", "no keys at its top"),
        ("a: [1\n", "cannot be read"),
        ("a: &a [*a]\n", "nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "x" * (1 << 20), "too large"),
    ],
)
def test_what_is_no_configuration(read, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(text)


def test_sums_cannot_hang(read) -> None:
    """Only + - * / are computed, so that no number grows beyond what the file's size allows."""
    assert read("a: 9\nx: !ref <a> ** <a> ** <a> ** <a>\n")["x"] == "9 ** 9 ** 9 ** 9"
    assert read("a: 0\nx: !ref 1 / <a>\n")["x"] == "1 / 0"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "cosyvoice.yaml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_official_yaml(file, ())
    with pytest.raises(ConfigError, match="cannot be read"):
        read_official_yaml(tmp_path / "none.yaml", ())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_official_ones(official_model, version: int) -> None:
    folder = official_model(version)
    assert read_official(next(folder.glob("*.yaml"))).version == version


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("    speech_token_size: 6561\n", "    speech_token_size: 6561\n    mood: merry\n", r"llm\.mood: unknown key"),
        ("    speech_token_size: 6561\n", "", r"llm\.speech_token_size: Field required"),
        ("speech_token_size: 6561", "speech_token_size: many", r"llm\.speech_token_size: "),
        ("act_fn: 'gelu'", "act_fn: 'snakebeta'", r"flow\.decoder\.estimator\.act_fn: "),
        ("input_layer: 'linear'", "input_layer: 'conv2d'", r"flow\.encoder\.input_layer: "),
        ("lrelu_slope: 0.1", "lrelu_slope: 0.1\n    loud: True", "argument loud is not known"),
        ("fmax: 8000", "fmax: high", r"feat_extractor\.fmax: "),
        ("llm.llm.Qwen2LM", "llm.llm.CosyVoice3LM", "parts of different models"),
        ("feat_extractor: !name", "other: !name", "feat_extractor: Field required"),
        ("hop_size: 480", "hop_size: 240", "hop length"),
    ],
)  # fmt: skip
def test_what_the_classes_do_not_take(official_copy, before: str, after: str, says: str) -> None:
    from fireside.models.official import open_folder

    folder = official_copy(2)
    file = folder / "cosyvoice2.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count(before) >= 1
    file.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        open_folder(folder)
    assert str(folder) in str(caught.value) or "CosyVoice" in str(caught.value)


def test_every_known_class_is_a_record() -> None:
    """No entry of the table leads to anything that could compute."""
    assert all(entry.__module__.startswith("fireside.models.official") for entry in CLASSES.values())
