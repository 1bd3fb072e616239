"""What is seen meanwhile: a bar, and the figures so far. Without a terminal, a line per load."""

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from batchserve.bench.figures import Figures
from batchserve.bench.generator import Progress as Told
from batchserve.bench.report import line_of, milliseconds, tables_of
from batchserve.bench.stage import Stage

# More often would take from the server's time what it shows.
EVERY_S = 0.5
RATE_OF = 4  # looks


class View:
    """The loads that are done, and the one in progress."""

    def __init__(self, console: Console, stages: int) -> None:
        self._console = console
        self._done: list[Figures] = []
        self._stages = stages
        columns = TextColumn("{task.description}"), BarColumn(24), TimeRemainingColumn()
        self._progress = Progress(*columns, TextColumn("{task.fields[now]}"), auto_refresh=False)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._so_far = SoFar()
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self, stage: Stage) -> None:
        """Show that a load begins."""
        self._so_far = SoFar()
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        place = f"{len(self._done) + 1} of {self._stages}"
        self._progress.add_task(f"{stage.name} ({place})", total=stage.all_s, now="")

    def show(self, seconds: float, told: Sequence[Told]) -> None:
        """Show how far a load is."""
        self._so_far.add(seconds, told)
        now_s = time.monotonic()
        if not self._live.is_started or now_s - self._drawn_s < EVERY_S:
            return
        self._drawn_s = now_s
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=max(0.0, seconds), now=str(self._so_far))
        shown = tables_of(self._done)[:1] if self._done else []
        self._live.update(Group(*shown, self._progress), refresh=True)

    def end(self, figures: Figures) -> None:
        """Show what came of it."""
        self._done.append(figures)
        if not self._console.is_terminal:
            self._console.print(line_of(figures))


class SoFar:
    """A load's figures while it goes on."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=RATE_OF)
        self._latencies_s: list[float] = []
        self._heard: set[int] = set()
        self._told: Sequence[Told] = ()

    def add(self, seconds: float, told: Sequence[Told]) -> None:
        """Take what the processes tell."""
        self._told = told
        self._looks.append((seconds, self.answered))
        for each in told:
            # Who has nothing new is here with what it told last.
            if each.latencies_s and id(each) not in self._heard:
                self._heard = {id(one) for one in told}
                self._latencies_s += each.latencies_s

    @property
    def answered(self) -> int:
        return sum(each.answered for each in self._told)

    def __str__(self) -> str:
        (begin_s, before), (end_s, after) = self._looks[0], self._looks[-1]
        rate = (after - before) / (end_s - begin_s) if end_s > begin_s else 0.0
        in_flight = sum(each.in_flight for each in self._told)
        failed = sum(each.failed for each in self._told)
        shown = [f"{rate:.0f}/s"]
        if self._latencies_s:
            p50_s, p99_s = np.percentile(self._latencies_s, [50, 99])
            shown += [f"p50 {milliseconds(p50_s)} ms", f"p99 {milliseconds(p99_s)} ms"]
        return ", ".join([*shown, f"{in_flight} in flight", f"{failed} failed"])
