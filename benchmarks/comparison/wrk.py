"""Closed-loop load, and what came of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "post.lua"
TIMEOUT_S = 30


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies in milliseconds, of all requests that were answered."""

    requests: int
    seconds: float
    non_2xx: int
    socket_errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Good answers in a second: anything but a 2xx counts against the server."""
        return (self.requests - self.non_2xx) / self.seconds


def run_wrk(url: str, body: Path, content_type: str, clients: int, seconds: float) -> Load:
    """Have so many clients post a body, each as soon as it was answered."""
    options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"]
    command = ["wrk", *options, "--latency", "-s", str(SCRIPT), url, str(body), content_type]
    return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse(printed: str) -> Load:
    """Read what `post.lua` prints at the end."""
    return Load(**json.loads(printed.splitlines()[-1]))
