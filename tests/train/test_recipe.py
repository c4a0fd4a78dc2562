"""`recipes/hearth/run.sh` with a stand-in for Python: what it would run, which the modules' own parsers must take."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fireside.hub import bundled_folder
from fireside.models.checkpoint import CONFIG_FILE, PARTS
from fireside.models.config import TokenizerConfig, read_config
from fireside.text.phones import PHONES
from fireside.train import flow, lm, vocoder
from fireside.train.flow import FlowTrainConfig, override
from fireside.train.speaker import SpeakerTraining

pytest.importorskip("tensorboard")

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "hearth"
STAND_IN = f"""#!{sys.executable} -IS
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
sys.exit(sys.argv[2] == os.environ.get("BREAKS_AT"))
"""


class Recipe:
    """A folder in which the script can run, and the calls that it made."""

    def __init__(self, folder: Path) -> None:
        self.work, self.shared, self.python = folder / "work", folder / "shared", folder / "python"
        for name in ("corpus/a.parquet", "speakers/librispeech.parquet", "models/campplus.onnx"):
            (self.shared / name).parent.mkdir(parents=True)
            (self.shared / name).touch()
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def run(self, **settings: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
        """Run the script; how it ended and the arguments of each call of Python."""
        calls = self.work.with_name("calls")
        calls.write_text("")
        unset = ("SCALE", "EVERY", "COUNT", "OUT", "THREADS", "KOKORO")
        inherited = {k: v for k, v in os.environ.items() if k not in unset and not k.endswith("_MINUTES")}
        own = {"WORK": str(self.work), "SHARED": str(self.shared), "PYTHON": str(self.python), "CALLS": str(calls)}
        ended = subprocess.run(
            ["bash", RECIPE / "run.sh"],
            env={**inherited, **own, **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ended, [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


class _ParsedError(Exception):
    """Carries what a module's parser made of its arguments, in place of the work."""


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What `python ARGUMENTS` gives its module's `main`; options must be spelled out in full."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        parser.allow_abbrev = False
        raise _ParsedError(parse_args(parser, args, namespace))

    assert arguments[0] == "-m"
    module = importlib.import_module(arguments[1])
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", arguments[1:])
        with pytest.raises(_ParsedError) as caught:
            module.main()
    namespace = caught.value.args[0]
    if arguments[1] == "fireside.train.flow":
        override(FlowTrainConfig(), namespace.settings)
    return namespace


def option(call: list[str], name: str) -> str | None:
    return call[call.index(name) + 1] if name in call else None


def test_every_command_of_the_script_is_taken_by_its_module(recipe, monkeypatch):
    ended, calls = recipe.run(KOKORO="kokoro")
    assert ended.returncode == 0, ended.stderr
    assert len(calls) == 15
    for call in calls:
        parsed(call, monkeypatch)


def test_every_command_of_the_readme_is_taken_by_its_module(monkeypatch):
    text = (RECIPE / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^python (-m fireside.*)$", text, re.M)
    assert len(shown) >= 15
    for command in shown:
        parsed(shlex.split(command), monkeypatch)


def test_a_command_with_an_unknown_option_is_found(monkeypatch):
    call = ["-m", "fireside.train.phones", "--features", "f", "--out", "o"]
    assert parsed(call, monkeypatch).out == Path("o")
    for wrong in (["--feature", "f", "--out", "o"], ["--out", "o"], [*call[2:], "--other"]):
        with pytest.raises(SystemExit):
            parsed([*call[:2], *wrong], monkeypatch)
    with pytest.raises(Exception, match=r"no setting crops\.share"):
        parsed(["-m", "fireside.train.flow", "--features", "f", "--out", "o", "--set", "crops.share=1"], monkeypatch)


def test_the_trainings_give_the_parts_of_the_shipped_model():
    """But for what is measured on the corpus."""
    shipped = read_config(bundled_folder() / CONFIG_FILE)
    assert shipped.lm.model_copy(update={"silent_tokens": ()}) == lm.hearth()
    assert shipped.flow.model_copy(update={"mel_mean": 0.0, "mel_std": 1.0}) == flow.unguided(flow.HEARTH).model_copy(
        update={"adapt": True}
    )
    assert shipped.vocoder == vocoder.HEARTH
    assert shipped.tokenizer == TokenizerConfig(ctc_vocab_size=len(PHONES))
    assert shipped.speaker == SpeakerTraining().speaker


def test_each_stage_finds_what_an_earlier_one_made(recipe):
    _, calls = recipe.run()
    made: set[str | None] = {str(recipe.work / "corpus")}
    for call in calls:
        for name in ("--corpus", "--features", "--phones", "--refine", "--model"):
            assert option(call, name) in {*made, None}, call
        for name in ("--init", "--teacher"):
            weights = option(call, name) if call[1] == "fireside.train.flow" else None
            assert weights is None or str(Path(weights).parent) in made, call
        made.add(option(call, "--out"))
    packaged = next(call for call in calls if call[1] == "fireside.train.package")
    runs = Path(option(packaged, "--runs") or "")
    assert {str(runs / part) for part in (*PARTS, "features")} <= made
    assert (recipe.work / "corpus" / "a.parquet").resolve() == recipe.shared / "corpus" / "a.parquet"


def test_scale_multiplies_all_minutes_and_thins_the_corpus(recipe, tmp_path):
    _, whole = recipe.run(LM_MINUTES="30")
    (tmp_path / "small").mkdir()
    _, small = Recipe(tmp_path / "small").run(LM_MINUTES="30", SCALE="0.04")
    assert [call[1] for call in whole] == [call[1] for call in small]
    timed = 0
    for full, part in zip(whole, small, strict=True):
        minutes = option(full, "--minutes")
        if minutes is not None:
            timed += 1
            assert float(option(part, "--minutes") or 0) == pytest.approx(0.04 * float(minutes))
        if option(full, "--every") is not None:
            assert (option(full, "--every"), option(part, "--every")) == ("1", "10")
    assert timed == 9
    assert option(whole[-2], "--minutes") is None
    assert [option(calls[-1], "--count") for calls in (whole, small)] == [None, "1"]
    lm = next(call for call in whole if call[1] == "fireside.train.lm")
    assert float(option(lm, "--minutes") or 0) == 30


def test_a_stage_that_broke_off_is_run_again_and_those_before_it_are_not(recipe):
    first, calls = recipe.run(BREAKS_AT="fireside.train.flow")
    assert first.returncode == 1
    assert calls[-1][1] == "fireside.train.flow"
    second, rest = recipe.run()
    assert second.returncode == 0
    assert [call[1].rsplit(".", 1)[1] for call in rest] == [
        "flow",
        "flow",
        "flow",
        "adaptation",
        "lm",
        "package",
        "speech",
    ]
    assert recipe.run()[1] == []


@pytest.mark.parametrize("scale", ["0", "0.0", "-1", "1e-2", "half", "."])
def test_a_scale_that_is_none_is_refused_before_anything_is_written(recipe, scale):
    ended, calls = recipe.run(SCALE=scale)
    assert (ended.returncode, calls) == (2, [])
    assert f"SCALE={scale}: give a number above 0" in ended.stderr
    assert not recipe.work.exists()


def test_a_folder_begun_at_another_scale_is_left_alone(recipe):
    recipe.run(SCALE="0.5", BREAKS_AT="fireside.train.data")
    ended, calls = recipe.run()
    assert (ended.returncode, calls) == (2, [])
    assert "was begun with another SCALE or EVERY (0.5 2)" in ended.stderr


def test_a_missing_source_is_named(recipe):
    (recipe.shared / "models" / "campplus.onnx").unlink()
    ended, calls = recipe.run()
    assert (ended.returncode, calls) == (2, [])
    assert "models/campplus.onnx: set SHARED" in ended.stderr


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_two_runs_do_not_train_in_one_folder(recipe):
    import fcntl

    recipe.work.mkdir()
    with (recipe.work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended, calls = recipe.run()
    assert (ended.returncode, calls) == (2, [])
    assert "still at work" in ended.stderr
    assert recipe.run()[0].returncode == 0
