"""The bars of speed, exactness and size, measured on a model folder in one run.

    python benchmarks/hearth.py [--model FOLDER] [--threads 2]

Offline RTF and streaming TTFA by the public API, warm; 750 forced tokens streamed against one shot of the pure modules;
joined chunks against the pure modules on ten utterances; one request alone against the same among seven others; size
of the weights; peak memory and time of a cold `fireside say`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fireside
from fireside.engine.flow import IncrementalFlow
from fireside.engine.noise import start_noise
from fireside.engine.vocoder import IncrementalVocoder
from fireside.request import SpeechRequest
from fireside.tts import Fireside
from fireside.voices import Voice

SENTENCES = (
    "Good evening. The fire is lit, and there is tea.",
    "The kettle sings a little before it boils.",
    "Nobody had told her that the last train left at nine.",
    "今天天气很好，我们去公园走走吧。",
    "请把窗户关上，外面风很大。",
    "He counted the stairs twice and found one more each time.",
    "If it rains tomorrow, we will read by the window.",
    "这本书我已经看了三遍。",
    "We can have a meeting tomorrow, 好不好？",
    "She wrote the letter slowly, and never sent it.",
)
TEN_SECONDS = (
    "When the evening came, the old house filled with voices, and somebody put another log on the fire. "
    "The children had long gone to bed, but the talk went on until the candles were low."
)


def snr(reference: Tensor, other: Tensor) -> float:
    """Signal-to-noise ratio in dB."""
    error = (reference.double() - other.double()).pow(2).sum().clamp(min=1e-30)
    return float(10 * torch.log10(reference.double().pow(2).sum() / error))


class Parts:
    """One-shot and piecewise runs of flow and vocoder for a voice's tokens."""

    def __init__(self, tts: Fireside) -> None:
        self.model = tts.model
        self.flow, self.vocoder = IncrementalFlow(self.model.flow), IncrementalVocoder(self.model.vocoder)

    def whole(self, voice: Voice, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mel [n_mels, frames], wave and source of one forward of the pure modules with the chunk mask."""
        config = self.model.config.flow
        prompt, mel = torch.from_numpy(voice.prompt_tokens), torch.from_numpy(voice.prompt_mel.T.copy())
        frames = (len(prompt) + len(tokens)) * config.token_mel_ratio
        noise = start_noise(config, 0, frames)
        made = self.model.flow.inference(
            tokens[None], prompt[None], mel[None], torch.from_numpy(voice.embedding)[None], noise[None], chunked=True
        )
        with torch.inference_mode():
            wave, _, source = self.model.vocoder(made)
        return made[0], wave[0], source[0]

    def pieces(self, voice: Voice, tokens: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mel and wave of the same tokens in hops of one chunk; with a given source where it is not None."""
        config, hop = self.model.config.flow, self.model.config.vocoder.hop_length
        flow = self.flow.start(
            torch.from_numpy(voice.prompt_tokens),
            torch.from_numpy(voice.prompt_mel.T.copy()),
            torch.from_numpy(voice.embedding),
        )
        state, mels, waves, at = self.vocoder.start(), [], [], 0
        for start in range(0, len(tokens), config.chunk_tokens):
            last = start + config.chunk_tokens >= len(tokens)
            mel = self.flow.append([flow], [tokens[start : start + config.chunk_tokens]], [last])[0]
            given = None if source is None else [source[at * hop : (at + mel.shape[1]) * hop]]
            waves.append(self.vocoder.append([state], [mel], [last], given)[0])
            mels.append(mel)
            at += mel.shape[1]
        return torch.cat(mels, 1), torch.cat(waves)


def speed(tts: Fireside) -> None:
    """Offline RTF, and TTFA of ten streams."""
    tts.say("Warm up, please.", seed=1)
    runs = [tts.say(TEN_SECONDS, seed=seed) for seed in range(3)]
    print(f"offline: {statistics.median(s.seconds for s in runs):.1f} s of speech, "
          f"RTF {statistics.median(s.timings.rtf for s in runs):.3f}")  # fmt: skip
    timings = runs[0].timings
    print(f"  of which LM {timings.lm_prefill + timings.lm_decode:.2f} s ({timings.lm_tokens} tokens), "
          f"flow {timings.flow:.2f} s, vocoder {timings.vocoder:.2f} s")  # fmt: skip
    firsts = []
    for seed in range(10):
        stream = tts.stream(SENTENCES[seed % len(SENTENCES)], seed=seed)
        firsts.append(next(stream).timings)
        for _ in stream:
            pass
    print(f"streaming: TTFA median {1e3 * statistics.median(t.ttfa for t in firsts):.0f} ms, "
          f"slowest {1e3 * max(t.ttfa for t in firsts):.0f} ms")  # fmt: skip


def streaming_cost(tts: Fireside, parts: Parts) -> None:
    """750 forced tokens in hops of one chunk against one shot, prompt included in both; three runs in turn."""
    voice = tts.voice()
    spoken = np.concatenate([tts.say(text, seed=3).tokens for text in (TEN_SECONDS, *SENTENCES)] * 2)[:750]
    tokens = torch.from_numpy(spoken.astype(np.int64))
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        parts.whole(voice, tokens)
        middle = time.perf_counter()
        parts.pieces(voice, tokens, None)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    print(f"streaming {len(tokens)} tokens over one shot: {statistics.median(ratios):.2f} "
          f"(of {', '.join(f'{r:.2f}' for r in sorted(ratios))})")  # fmt: skip


def exactness(tts: Fireside, parts: Parts) -> None:
    """Joined chunks against the pure modules, and one request alone against the same among seven others."""
    voice = tts.voice()
    mel_error, given_mel, whole_chain = 0.0, np.inf, np.inf
    for seed, text in enumerate(SENTENCES):
        tokens = torch.tensor(tts.say(text, seed=seed).tokens)
        mel, wave, source = parts.whole(voice, tokens)
        joined, chain = parts.pieces(voice, tokens, source)
        state, split, hop = parts.vocoder.start(), mel.split(17, dim=1), parts.model.config.vocoder.hop_length
        same = torch.cat([
            parts.vocoder.append([state], [piece], [i == len(split) - 1], [given])[0]
            for i, (piece, given) in enumerate(zip(split, source.split(17 * hop), strict=True))
        ])  # fmt: skip
        mel_error = max(mel_error, float((mel - joined).abs().max()))
        given_mel, whole_chain = min(given_mel, snr(wave, same)), min(whole_chain, snr(wave, chain))
    print(f"joined over one shot, {len(SENTENCES)} utterances: mel max error {mel_error:.1e}, wave {given_mel:.0f} dB "
          f"given mel and source, whole chain {whole_chain:.0f} dB given the source")  # fmt: skip
    engine, alone = tts.engine, tts.say(SENTENCES[0], seed=7)
    again = tts.say(SENTENCES[0], seed=7)
    keys = [engine.submit(SpeechRequest(voice, text=text, seed=7 + i)) for i, text in enumerate(SENTENCES[:8])]
    chunks: list[np.ndarray] = []
    tokens_among: list[int] = []
    while engine.active:
        for key, chunk in engine.step():
            if isinstance(chunk, fireside.FiresideError):
                raise chunk
            if key == keys[0]:
                chunks.append(chunk.samples)
                tokens_among += chunk.tokens
    among = torch.from_numpy(np.concatenate(chunks))
    print(f"same seed twice: tokens {'equal' if again.tokens == alone.tokens else 'DIFFER'}, "
          f"wave {snr(torch.from_numpy(alone.samples), torch.from_numpy(again.samples)):.0f} dB; "
          f"among 7 others: tokens {'equal' if tuple(tokens_among) == alone.tokens else 'DIFFER'}, "
          f"wave {snr(torch.from_numpy(alone.samples), among):.0f} dB")  # fmt: skip


def cold(model: str | None, threads: int) -> None:
    """Five cold starts of the command, and the peak memory of a longer `say`."""
    command = [sys.executable, "-m", "fireside", "say", "--threads", str(threads)]
    command += ["--model", model] if model else []
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.wav")
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([*command, "Hello.", "-o", out], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        subprocess.run([*command, TEN_SECONDS, "-o", out], check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"cold `fireside say Hello.`: median {statistics.median(times):.1f} s; peak RSS of `say` {peak:.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cold(options.model, options.threads)
    tts = fireside.load(options.model)
    size = sum(file.stat().st_size for file in Path(tts.model.path).rglob("*.safetensors"))
    print(f"weights and voices: {size / 1e6:.1f} MB")
    parts = Parts(tts)
    speed(tts)
    streaming_cost(tts, parts)
    exactness(tts, parts)
    per_frame = parts.flow.bytes_per_frame * 50
    print(f"state of the flow: {per_frame / 1e6:.1f} MB for a second of audio, freed at the end of each sentence")


if __name__ == "__main__":
    main()
