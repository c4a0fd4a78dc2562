"""The engine without a server: one offline batch per line that comes in, its figures out, in a process of its own.

echo '{"texts": ["Hello."], "seed": 7}' | python benchmarks/serving/offline.py [--model FOLDER] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

import fireside
from fireside.request import SpeechRequest
from fireside.tts import Fireside


def batch(tts: Fireside, texts: list[str], seed: int) -> dict[str, float]:
    """Wall-clock seconds and seconds of audio of all texts at once."""
    engine, voice, samples = tts.engine, tts.voice(), 0
    start = time.perf_counter()
    for text in texts:
        engine.submit(SpeechRequest(voice, text=text, seed=seed))
    while engine.active:
        for _, chunk in engine.step():
            if isinstance(chunk, fireside.FiresideError):
                raise chunk
            samples += len(chunk.samples)
    return {"seconds": time.perf_counter() - start, "audio_seconds": samples / tts.sample_rate}


def main() -> None:
    """Answer every line of standard input with a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tts = fireside.load(options.model)
    batch(tts, ["Warm up, please."] * 2, 1)
    for line in sys.stdin:
        print(json.dumps(batch(tts, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
