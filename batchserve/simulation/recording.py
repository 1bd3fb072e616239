"""What a real server was asked and what its passes took, from a file.

That is a Chrome trace as `GET /debug/batches` gives it, a JSON list of times, or a text with a time
a line; times are seconds, those of a trace microseconds.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from batchserve.errors import ConfigError

MICROSECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Recording:
    """What was observed.

    Attributes:
        arrivals_s: in order, counted from the first.
        passes_s: seconds of each forward pass, by batch size; empty: they were not recorded.
    """

    arrivals_s: list[float]
    passes_s: dict[int, list[float]] = field(default_factory=dict)

    @property
    def forward_s(self) -> dict[int, float]:
        """Usual seconds of a pass by batch size, never less for a larger batch."""
        return _rising(
            {size: (median(took), len(took)) for size, took in sorted(self.passes_s.items())}
        )

    @property
    def ratios(self) -> list[float]:
        """Each pass over what passes of its size usually take."""
        usual_s = self.forward_s
        return [took / usual_s[size] for size, passes in self.passes_s.items() for took in passes]


def read_recording(path: Path) -> Recording:
    """Read a recording in any of the formats.

    Raises:
        ConfigError: it cannot be read, or nothing is in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recording {path} cannot be read: {error}") from error
    recording = _from_json(text) if text.lstrip()[:1] in ("{", "[") else _from_lines(path, text)
    if not recording.arrivals_s and not recording.passes_s:
        raise ConfigError(
            f"the recording {path} holds no arrivals; write a time in seconds a line, or save what "
            f"GET /debug/batches answers"
        )
    return recording


def _from_lines(path: Path, text: str) -> Recording:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return Recording(_counted_from_first(float(line) for line in lines))
    except ValueError as error:
        raise ConfigError(
            f"the recording {path}: {error}; write a time in seconds a line"
        ) from None


def _from_json(text: str) -> Recording:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the recording is not JSON: {error}") from None
    events = content.get("traceEvents", []) if isinstance(content, dict) else content
    if events and all(isinstance(event, int | float) for event in events):
        return Recording(_counted_from_first(events))
    return _from_events(event for event in events if isinstance(event, dict))


def _from_events(events: Iterable[dict[str, Any]]) -> Recording:
    passes_s: dict[int, list[float]] = defaultdict(list)
    arrivals_us: list[float] = []
    for event in events:
        arguments = event.get("args") or {}
        match event.get("cat"), event.get("ph"):
            case "forward", "X" if "size" in arguments:
                passes_s[int(arguments["size"])].append(MICROSECONDS * float(event["dur"]))
            case "wait", "b" if event.get("name") != "decode":
                arrivals_us.append(float(arguments.get("arrived_us", event["ts"])))
    return Recording(
        _counted_from_first(MICROSECONDS * arrived_us for arrived_us in arrivals_us), dict(passes_s)
    )


def _counted_from_first(times_s: Iterable[float]) -> list[float]:
    ordered = sorted(times_s)
    return [time_s - ordered[0] for time_s in ordered]


def _rising(seconds: Mapping[int, tuple[float, int]]) -> dict[int, float]:
    """Return what comes closest without ever falling, of seconds and their weights.

    By pooling adjacent violators (Ayer et al., 1955): what few passes of a size, and noise, have
    bent is evened out.
    """
    pools: list[tuple[float, int, list[int]]] = []
    for size, (took_s, weight) in seconds.items():
        pool = (took_s, weight, [size])
        while pools and pools[-1][0] > pool[0]:
            before_s, heavy, sizes = pools.pop()
            total = heavy + pool[1]
            pool = ((before_s * heavy + pool[0] * pool[1]) / total, total, sizes + pool[2])
        pools.append(pool)
    return {size: took_s for took_s, _, sizes in pools for size in sizes}
