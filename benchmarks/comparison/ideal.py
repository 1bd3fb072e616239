"""What a loop without HTTP reaches on the same cores: parse, decode, forward, nothing else.

Cores ÷ (core-seconds of decoding and forward at the best batch size) per item. Two ways to use the
cores are tried, and the better one counts: a process for each core, with one thread of torch; or
one process whose passes use all cores.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import IO

import orjson

from comparison.contestants import Visit
from comparison.samples import Reference
from comparison.servers.base import CORES, HERE

SIZES = {
    "tiny": (16, 64, 256),
    "mlp": (16, 32, 64, 128, 256),
    "image": (1, 2, 4, 8, 16),
}
TRIAL_S = 0.4


@dataclass(frozen=True)
class Cost:
    """Seconds for one batch: to decode it on one thread, and to run it."""

    decode_s: float
    forward_s: float


@dataclass(frozen=True)
class Way:
    """How the cores are used, and the size of the batches."""

    processes: int
    size: int

    def rate(self, cost: Cost) -> float:
        """Return items in a second on all cores."""
        threads = CORES // self.processes
        return CORES * self.size / (cost.decode_s + threads * cost.forward_s)


class Worker:
    """A process that measures on demand; see `ideal_worker.py`."""

    def __init__(self, workload: str, threads: int, body: bytes) -> None:
        command = [sys.executable, "-m", "comparison.ideal_worker", workload, str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(threads)
        )
        self._send(body)

    def measure(self, size: int, seconds: float) -> Cost:
        self._send(json.dumps({"size": size, "seconds": seconds}).encode())
        return Cost(**json.loads(_pipe(self._process.stdout).readline()))

    def stop(self) -> None:
        # It ends where its input does.
        self._process.communicate()

    def _send(self, line: bytes) -> None:
        stdin = _pipe(self._process.stdin)
        stdin.write(line + b"\n")
        stdin.flush()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(threads)}


class Ideal:
    """The ideal of a workload, measured in turn with the servers."""

    name = "ideal"

    def __init__(self, workload: str, reference: Reference) -> None:
        self._workload = workload
        body = orjson.dumps({"input": reference.payloads[0]})
        self._workers = {
            processes: [Worker(workload, CORES // processes, body) for _ in range(processes)]
            for processes in sorted({1, CORES})
        }
        ways = [Way(processes, size) for processes in self._workers for size in SIZES[workload]]
        self.way = max(ways, key=lambda way: self._rate(way, TRIAL_S))

    def _rate(self, way: Way, seconds: float) -> float:
        workers = self._workers[way.processes]
        with ThreadPoolExecutor(len(workers)) as pool:
            costs = [*pool.map(lambda worker: worker.measure(way.size, seconds), workers)]
        return sum(way.rate(cost) for cost in costs) / len(costs)

    def visit(self, clients: int, turn: int, seconds: float) -> Visit:
        """Measure; the number of clients does not matter."""
        rate = self._rate(self.way, seconds)
        return Visit(self.name, self._workload, clients, turn, rate, batch_size=self.way.size)

    def settings(self) -> dict[str, int]:
        return asdict(self.way)

    def stop(self) -> None:
        for worker in (worker for workers in self._workers.values() for worker in workers):
            worker.stop()
