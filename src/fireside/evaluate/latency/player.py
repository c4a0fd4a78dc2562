"""A listener's loudspeaker, by the clock: what it has played, what it still has, and when it ran dry."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Player:
    """Plays one second of audio per second from the moment that `prebuffer` seconds of it are there.

    When everything that came has been played it stands still until more comes and goes on at once: that is an
    underrun, however short. Times are seconds of the caller's clock, positions seconds of the audio.
    """

    prebuffer: float = 0.0
    received: float = 0.0
    underruns: list[float] = field(default_factory=list)
    """Seconds of silence of each underrun."""
    slacks: list[float] = field(default_factory=list)
    """Seconds of audio still to be played whenever some came; below 0 by as much as it came too late."""
    _runs: list[tuple[float, float]] = field(default_factory=list)

    def receive(self, now: float, seconds: float) -> None:
        """So much audio came."""
        if self._runs:
            slack = self._dry_at() - now
            self.slacks.append(slack)
            if slack < 0:
                self.underruns.append(-slack)
                self._runs.append((now, self.received))
        self.received += seconds
        if not self._runs and self.received >= self.prebuffer:
            self._runs.append((now, 0.0))

    def end(self, now: float) -> None:
        """No more will come: what is there is played even if it is less than `prebuffer`."""
        if not self._runs and self.received:
            self._runs.append((now, 0.0))

    def ahead(self, now: float) -> float:
        """Seconds of audio that came and were not played yet."""
        return max(self._dry_at() - now, 0.0) if self._runs else self.received

    def heard_at(self, position: float) -> float | None:
        """When the sample at this position, which must have come, is heard; None while nothing is played."""
        if not self._runs:
            return None
        clock, start = next(run for run in reversed(self._runs) if run[1] <= position)
        return clock + position - start

    def _dry_at(self) -> float:
        clock, start = self._runs[-1]
        return clock + self.received - start
