"""A Fireside server as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil

ANNOUNCEMENT = re.compile(r"on (http://\S+?)(?:, gRPC on (\S+))? \(page at /\), up to (\d+) streams")
START_SECONDS = 180


class Unmeasured(Exception):
    """A bar that could not be measured, and why."""


class ServerProcess:
    """`fireside serve` with some options on free ports; where and what it is, as it says itself."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "fireside", "serve", "--port", "0", "--grpc-port", "0", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        found = self._announced()
        self.url, self.grpc, self.max_streams = found[1], found[2] or "", int(found[3])
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=10) as answer:
            self.model: str = json.load(answer)["data"][0]["id"]

    def _announced(self) -> re.Match[str]:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = ANNOUNCEMENT.search(self.log.read_text(errors="replace"))
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            self.process.kill()
        raise Unmeasured(f"The server did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def metrics(self) -> dict[str, float]:
        """Every figure of /metrics, labels summed up."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def rss(self) -> int:
        """Resident bytes, children included."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)

    def idle(self, patience: float) -> dict[str, float]:
        """The metrics once no stream is active and none waits, or when patience ends."""
        end = time.monotonic() + patience
        while True:
            found = self.metrics()
            if not (found["fireside_active_streams"] or found["fireside_queue_depth"]) or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(90)
            except psutil.TimeoutExpired:
                self.process.kill()
