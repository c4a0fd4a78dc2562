"""Makes a folder of an official checkpoint with random weights of the full size and does with it all that can be done.

    PYTHONPATH=src python benchmarks/official_modes.py OUT --version 2 [--scale tiny] [--only cli] [--brief]

The folder, OUT/NAME, must load strictly; every mode that the model has must speak through the command line, each in a
process of its own, and through `fireside.compat.cosyvoice`, streamed and not; and the mel that its flow makes in
pieces must equal the mel of one shot under the same mask (CosyVoice 2 and 3; 1 has no such equality). Prints a table;
the exit code says whether all is well. Texts are of one letter, since random weights may never end a sentence: the
longest speech is some 40 tokens then. Needs up to 4 GB of disk, which it frees again unless told to --keep the folder.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from flow_stream import cuts, make_case, streamed
from official_folders import MANIFESTS, SPEAKERS, write_folder

from fireside.compat.cosyvoice import AutoModel, CosyVoice, CosyVoice2

NAMES = {1: "CosyVoice-300M-Instruct", 2: "CosyVoice2-0.5B", 3: "Fun-CosyVoice3-0.5B"}
RATES = {1: 22050, 2: 24000, 3: 24000}
SPEAKER = SPEAKERS[0]
INSTRUCTION = "Softly."
PROMPT_SECONDS = 1.5
LARGEST_ERROR = 1e-3
MEL_SECONDS, MEL_PROMPT_SECONDS = 4.2, 2.4


@dataclass(frozen=True)
class Result:
    """What became of one use: seconds of audio (None where there is none) and of waiting, and what was wrong."""

    where: str
    what: str
    audio: float | None
    seconds: float
    wrong: str = ""

    def __str__(self) -> str:
        audio = "" if self.audio is None else f"{self.audio:5.2f} s of audio in"
        return f"{self.where:8s}{self.what:46s}{audio:>20s}{self.seconds:7.1f} s  {self.wrong or 'ok'}"


def tried(where: str, what: str, use: Callable[[], float | None]) -> Result:
    """One use, whatever comes of it."""
    started = time.perf_counter()
    try:
        audio = use()
    except Exception as error:  # the table says what failed, and goes on
        return Result(where, what, None, time.perf_counter() - started, f"{type(error).__name__}: {error}")
    return Result(where, what, audio, time.perf_counter() - started)


def write_prompt(file: Path) -> Path:
    """A recording that sounds a little like a voice: harmonics of a falling tone, and pauses."""
    clock = np.arange(int(PROMPT_SECONDS * 24000)) / 24000
    phase = 2 * np.pi * (180 * clock - 20 * clock**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * clock))
    soundfile.write(file, 0.2 * voice, 24000)
    return file


def checked(samples: np.ndarray, rate: int, expected: int) -> float:
    """Seconds of speech. Raises ValueError when it is none."""
    if rate != expected:
        raise ValueError(f"{rate} Hz instead of {expected}")
    if not len(samples) or not np.isfinite(samples).all() or not np.abs(samples).max():
        raise ValueError("no sound")
    return len(samples) / rate


def commands(version: int, prompt: Path) -> Iterator[tuple[str, list[str], bytes | None]]:
    """Every mode at the command line: its name, the command, and what is typed."""
    text = "<|en|>a" if version == 1 else "a"
    spoken = ["--prompt-text", "b"]
    yield "sft", ["say", "a", "-v", SPEAKER], None
    yield "zero_shot", ["clone", "a", "-p", str(prompt), *spoken, "--save-voice", "me"], None
    yield "a saved voice, speed 1.3", ["say", "a", "-v", "me", "--speed", "1.3"], None
    yield "cross_lingual", ["clone", text, "-p", str(prompt)], None
    if version == 1:
        yield "instruct", ["say", "a", "-v", SPEAKER, "--instruct", INSTRUCTION], None
    else:
        yield "instruct2", ["clone", "a", "-p", str(prompt), "--instruct", INSTRUCTION], None
        yield "bistream", ["say", "--live", "-v", "me"], b"ab"
        yield "tags", ["say", "a[breath]", "-v", "me"], None
    if version == 3:
        yield "phones", ["say", "[HH][AH0]", "-v", "me"], None
    yield "voice conversion", ["convert", str(prompt), "-v", "me"], None


def command_line(folder: Path, version: int, prompt: Path, options: argparse.Namespace) -> Iterator[Result]:
    """Every command, written to a file and, where it can be, streamed."""
    environment = {**os.environ, "FIRESIDE_HOME": str(options.out / "home")}

    def run(words: list[str], typed: bytes | None = None) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "fireside", *words], input=typed, capture_output=True, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode().strip())
        return done.stdout

    def check() -> None:
        run(["model", "check", str(folder)])

    yield tried("cli", "model check", check)
    common = ["--model", str(folder), "--threads", str(options.threads), "--precision", options.precision]
    file = options.out / "speech.wav"

    def to_file(words: list[str], typed: bytes | None) -> float:
        run([*words, *common, "-o", str(file)], typed)
        return checked(*soundfile.read(file), RATES[version])

    def to_stream(words: list[str], typed: bytes | None) -> float:
        return checked(*soundfile.read(io.BytesIO(run([*words, *common, "--stream"], typed))), RATES[version])

    for name, words, typed in commands(version, prompt):
        if words[0] != "convert":
            words += ["--normaliser", "none", "--seed", "1"]
        yield tried("cli", name, partial(to_file, words, typed))
        if "--save-voice" not in words and not options.brief:
            yield tried("cli", f"{name}, streamed", partial(to_stream, words, typed))


def calls(model: CosyVoice, version: int, prompt: Path) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every mode of the original's API."""
    source = str(prompt)
    yield "inference_sft", lambda **kw: model.inference_sft("a", SPEAKER, **kw)
    yield "inference_zero_shot", lambda **kw: model.inference_zero_shot("a", "b", source, **kw)
    yield "inference_zero_shot, an added voice", lambda **kw: model.inference_zero_shot("a", "", "", "mine", **kw)
    text = "<|en|>a" if version == 1 else "a"
    yield "inference_cross_lingual", lambda **kw: model.inference_cross_lingual(text, source, **kw)
    if isinstance(model, CosyVoice2):
        yield "inference_instruct2", lambda **kw: model.inference_instruct2("a", INSTRUCTION, source, **kw)
        yield (
            "inference_zero_shot, text in parts",
            lambda **kw: model.inference_zero_shot((part for part in "ab"), "b", source, **kw),
        )
    else:
        yield "inference_instruct", lambda **kw: model.inference_instruct("a", SPEAKER, INSTRUCTION, **kw)
    yield "inference_vc", lambda **kw: model.inference_vc(source, source, **kw)


def compat(folder: Path, version: int, prompt: Path, options: argparse.Namespace) -> Iterator[Result]:
    """Every mode of the original's API, in one go and streamed."""
    models: list[CosyVoice] = []

    def load() -> None:
        models.append(AutoModel(model_dir=str(folder), normaliser="none"))
        models[0].add_zero_shot_spk("b", str(prompt), "mine")
        if models[0].list_available_spks() != [*SPEAKERS, "mine"]:
            raise ValueError(f"voices {models[0].list_available_spks()}")

    yield tried("compat", "AutoModel, add_zero_shot_spk", load)

    def joined(call: Callable[..., Any], stream: bool) -> float:
        speech = torch.cat([output["tts_speech"] for output in call(stream=stream)], dim=1)
        if speech.shape[0] != 1 or speech.dtype != torch.float32:
            raise ValueError(f"speech of shape {tuple(speech.shape)}, {speech.dtype}")
        return checked(speech[0].numpy(), models[0].sample_rate, RATES[version])

    for name, call in calls(models[0], version, prompt) if models else ():
        if not options.brief:
            yield tried("compat", name, partial(joined, call, False))
        yield tried("compat", f"{name}, streamed", partial(joined, call, True))


def joined_mel(folder: Path) -> Iterator[Result]:
    """The mel in pieces against the mel of one shot."""
    settings = argparse.Namespace(model=str(folder), seconds=MEL_SECONDS, prompt=MEL_PROMPT_SECONDS, storage="fp32")
    case = make_case(settings)
    error = 0.0

    def compare() -> None:
        nonlocal error
        with torch.inference_mode():
            _, hops = streamed(case, cuts(case), time.perf_counter)
            error = float((hops.mel - case.one_shot(case.tokens)).abs().max())
        if not error <= LARGEST_ERROR:
            raise ValueError(f"largest difference {error:.1e}")

    result = tried("mel", f"{len(cuts(case))} hops against one shot", compare)
    yield result if result.wrong else Result(result.where, f"{result.what}: {error:.1e}", None, result.seconds)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--scale", choices=("tiny", "full"), default="full")
    parser.add_argument("--only", choices=("cli", "compat", "mel"), action="append")
    parser.add_argument("--brief", action="store_true", help="files at the command line, streams through the API only")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32", help="of the commands")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the folder where it is")
    parser.add_argument("--manifests", type=Path, default=MANIFESTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.out / NAMES[options.version]
    if not (folder / "hift.pt").exists():
        write_folder(folder, options.version, options.scale, manifests=options.manifests)
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    print(f"{folder.name}, {size / 1e9:.2f} GB, {options.precision}, {options.threads} threads", flush=True)
    prompt = write_prompt(options.out / "prompt.wav")
    parts = options.only or ("cli", "compat", "mel")
    wrong = 0
    try:
        for part in parts:
            if part == "cli":
                results = command_line(folder, options.version, prompt, options)
            elif part == "compat":
                results = compat(folder, options.version, prompt, options)
            elif options.version == 1:
                continue  # its flow is no function of pieces
            else:
                results = joined_mel(folder)
            for result in results:
                print(result, flush=True)
                wrong += bool(result.wrong)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
            shutil.rmtree(options.out / "home", ignore_errors=True)
    print("all well" if not wrong else f"{wrong} went wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
