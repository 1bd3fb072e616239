"""What is seen meanwhile: a bar of the budget. Without a terminal, a line per variant."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from batchserve.tuning.budget import Budget
from batchserve.tuning.outcome import Outcome
from batchserve.tuning.report import line_of


class View:
    """Shows what a sweep tells."""

    def __init__(self, console: Console, budget: Budget) -> None:
        self._console, self._budget = console, budget
        seconds = TextColumn("{task.completed:.0f} of {task.total:.0f} s")
        columns = BarColumn(24), seconds, TextColumn("{task.description}")
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("loading", total=budget.seconds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, doing: str) -> None:
        """Say what is being measured."""
        completed = min(self._budget.spent_s, self._budget.seconds)
        self._progress.update(self._task, description=doing, completed=completed)

    def tell(self, outcome: Outcome) -> None:
        """Say what came of a variant at first."""
        self.show(str(outcome.variant))
        self._console.print(line_of(outcome), highlight=False, soft_wrap=True)
