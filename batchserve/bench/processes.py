"""Starts the processes that send, and hears from them.

They are others than the one that draws, which would hold up the answers that it times.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from batchserve.bench.generator import Job, Progress
from batchserve.bench.stage import Stage
from batchserve.bench.tally import Tally
from batchserve.bench.target import Target, TargetError

PACKAGES = Path(__file__).parent.parent.parent
# Until they have read what to do.
AHEAD_S = 0.05
LOOK_S = 0.25


@dataclass(frozen=True)
class Load:
    """What is the same in all stages.

    Attributes:
        target: where to.
        wires: requests as bytes, sent in turn.
        processes: that send.
        connections: at most so many, of all processes together.
        timeout_s: after which a request is given up.
    """

    target: Target
    wires: Sequence[bytes]
    processes: int = 1
    connections: int = 1000
    timeout_s: float = 30.0

    def jobs(self, stage: Stage, begin_s: float) -> Iterator[Job]:
        """Yield what each process has to do."""
        for place in range(self.processes):
            clients, moments = stage.share(place, self.processes)
            yield Job(
                target=self.target,
                wires=self.wires,
                begin_s=begin_s,
                seconds=stage.all_s,
                clients=clients,
                moments=moments,
                connections=max(1, self.connections // self.processes),
                timeout_s=self.timeout_s,
            )


class Interrupted(Exception):
    """Someone pressed Ctrl-C; what was measured until then is in it."""

    def __init__(self, tallies: list[Tally], seconds: float) -> None:
        super().__init__("interrupted")
        self.tallies = tallies
        self.seconds = seconds


Show = Callable[[float, Sequence[Progress]], None]


def send(load: Load, stage: Stage, show: Show = lambda *_: None) -> list[Tally]:
    """Send what the stage says, and return what became of it, for each process.

    Args:
        load: what is sent, and by how many.
        stage: when.
        show: called now and then with the seconds since the begin, and what each process tells.

    Raises:
        Interrupted: Ctrl-C.
        TargetError: a process died.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_process()) for _ in range(load.processes)]
        hearing = _Hearing([pipe for pipe, _ in started], show)
        begin_s = hearing.begin(load, stage)
        try:
            return hearing.results()
        except KeyboardInterrupt:
            seconds = time.monotonic() - begin_s
            for _, process in started:
                process.terminate()
            raise Interrupted(hearing.results(), seconds) from None


class _Hearing:
    """What the processes are told, and what they say."""

    def __init__(self, pipes: list[Connection], show: Show) -> None:
        self._progress = dict.fromkeys(pipes, Progress())
        self._tallies: dict[Connection, Tally] = {}
        self._begin_s = 0.0
        self._show = show

    def begin(self, load: Load, stage: Stage) -> float:
        """Have all of them send, once all of them are there; return when, on the clock."""
        for pipe in self._progress:
            self._hear(pipe)
        self._begin_s = time.monotonic() + AHEAD_S
        for pipe, job in zip(self._progress, load.jobs(stage, self._begin_s), strict=True):
            pipe.send(job)
        return self._begin_s

    def results(self) -> list[Tally]:
        """Return what each process noted, once all of them are done."""
        while waiting := [pipe for pipe in self._progress if pipe not in self._tallies]:
            said = wait(waiting, LOOK_S)
            for pipe in waiting:
                if pipe in said:
                    self._hear(pipe)
            self._show(time.monotonic() - self._begin_s, [*self._progress.values()])
        return [self._tallies[pipe] for pipe in self._progress]

    def _hear(self, pipe: Connection) -> None:
        try:
            said = pipe.recv()
        except (EOFError, OSError):
            raise TargetError("a process that sends has died; its last words are above") from None
        if isinstance(said, Tally):
            self._tallies[pipe] = said
        else:
            self._progress[pipe] = said


@contextmanager
def _process() -> Iterator[tuple[Connection, "subprocess.Popen[bytes]"]]:
    ours, theirs = Pipe()
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", "batchserve.bench.process", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        process_group=0,  # Ctrl-C is for us
    )
    theirs.close()
    try:
        yield ours, process
    finally:
        ours.close()
        process.terminate()
        process.wait()
