"""The bars of serving, each against a fresh server on this machine, in one run.

    python benchmarks/serve.py [--only throughput first_sound …] [--scale 0.1] [--json FILE]

The client runs beside the server, on the same cores, and is the one of `fireside bench serve`: times are those of its
own clock, a first sound is the first decoded sample, and its listeners read at playback pace unless a bar says
otherwise. --scale runs that share of the issue's numbers; figures of less than all of it, or of a machine that does
something else at the time, are indications. What runs in other files: batched equals single and the engine's own
throughput (serve_engine.py), the fuzzing of the OpenAPI document (tests/serve).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from serving.bars import Bar, Setting, drift, first_sound, leaving, stopping, throughput, underruns
from serving.server import Unmeasured
from serving.soak import soak

BARS = {
    "throughput": throughput,
    "first_sound": first_sound,
    "drift": drift,
    "underruns": underruns,
    "leaving": leaving,
    "stopping": stopping,
    "soak": soak,
}


def table(bars: list[Bar]) -> Table:
    """One row a bar."""
    shown = Table(title="Bars of serving", title_justify="left")
    for column in ("what", "measured", "floor", "aim", "reached"):
        shown.add_column(column, justify="left" if column in ("what", "reached") else "right")
    for bar in bars:
        sign = "≥" if bar.sense == "at least" else "≤"
        digits = ".2f" if bar.unit in ("×", "%") else ".0f"
        limits = (f"{sign} {limit:g} {bar.unit}".rstrip() for limit in (bar.floor, bar.aim))
        shown.add_row(bar.what, f"{bar.value:{digits}} {bar.unit}".rstrip(), *limits, bar.verdict)
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BARS), default=list(BARS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the issue's numbers that is run")
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write everything that was seen")
    parser.add_argument("--logs", type=Path, help="folder for what the servers say; a temporary one when absent")
    options = parser.parse_args()
    logs = options.logs or Path(tempfile.mkdtemp(prefix="fireside-serve-"))
    logs.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.scale, options.model, options.threads, logs)
    bars: list[Bar] = []
    unmeasured: dict[str, str] = {}
    for name in options.only:
        start, busy = time.perf_counter(), os.getloadavg()[0]
        try:
            found = BARS[name](setting)
        except Unmeasured as problem:
            unmeasured[name], found = str(problem), []
            print(f"{name}: NOT MEASURED: {problem}", flush=True)
        bars += found
        for bar in found:
            print(f"{bar.what}: {bar.value:.3g} {bar.unit} ({bar.verdict})\n  {bar.how}", flush=True)
        print(f"  [{name}: {time.perf_counter() - start:.0f} s; load average before it {busy:.1f}]\n", flush=True)
        if options.json:
            every = [asdict(bar) | {"verdict": bar.verdict} for bar in bars]
            run = {"scale": options.scale, "threads": options.threads, "bars": every, "unmeasured": unmeasured}
            options.json.write_text(json.dumps(run, indent=1, ensure_ascii=False), encoding="utf-8")
    Console().print(table(bars))
    print(f"scale {options.scale:g}, {os.cpu_count()} CPUs, {platform.machine()}; the servers' words are in {logs}")
    if unmeasured:
        raise SystemExit(f"not measured: {', '.join(unmeasured)}")


if __name__ == "__main__":
    main()
