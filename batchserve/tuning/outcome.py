"""What was found out about one way to run a model: pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from batchserve.batching.knee import largest_that_pays
from batchserve.runners.difference import Difference
from batchserve.tuning.variant import Variant

# What a core more must give to be taken from the other workers.
SLOWER = 0.1


@dataclass
class Outcome:
    """One variant.

    Attributes:
        cells: seconds of each pass that was timed, by threads and batch size.
        difference: of its answers from those of fp32; None: it has not been asked.
        bytes: of its parameters and buffers.
        ready_s: from loaded to the first answers: moving, quantising, compiling.
        dropped: why it was not measured further; None: it was.
        too_large: a batch size that the memory did not suffice for; None: there was none.
    """

    variant: Variant
    cells: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    difference: Difference | None = None
    bytes: int = 0
    ready_s: float = 0.0
    dropped: str | None = None
    too_large: int | None = None

    def add(self, threads: int, size: int, seconds: float) -> None:
        self.cells[threads, size].append(seconds)

    def seconds(self, threads: int) -> dict[int, float]:
        """Return the median of a pass's seconds by batch size, the smallest first."""
        sizes = sorted(size for with_threads, size in self.cells if with_threads == threads)
        return {size: median(self.cells[threads, size]) for size in sizes}

    @property
    def threads(self) -> int:
        """The fewest with which it is about as fast as with any number."""
        rates = {threads: best_rate(self.seconds(threads)) for threads, _ in self.cells}
        enough = (1 - SLOWER) * max(rates.values())
        return min(threads for threads, rate in rates.items() if rate >= enough)

    @property
    def sizes(self) -> set[int]:
        """All batch sizes that were measured."""
        return {size for _, size in self.cells}

    @property
    def knee(self) -> int:
        """The batch size from which on larger ones hardly pay."""
        return largest_that_pays(self.seconds(self.threads))

    @property
    def pass_s(self) -> float:
        """Seconds of a pass at the knee."""
        return self.seconds(self.threads)[self.knee]

    @property
    def rate(self) -> float:
        """Items a second at the knee."""
        return self.knee / self.pass_s

    @property
    def alone_s(self) -> float:
        """Seconds of a pass of one item."""
        seconds = self.seconds(self.threads)
        return seconds[min(seconds)]

    def fastest(self, size: int) -> float:
        """Items a second in the quickest pass of a size; 0: that was not measured."""
        took_s = [
            taken_s for (_, tried), cell in self.cells.items() if tried == size for taken_s in cell
        ]
        return size / min(took_s) if took_s else 0.0

    @property
    def measured(self) -> bool:
        return bool(self.cells)

    def good(self, tolerance: float) -> bool:
        """Whether its answers are as good as those of fp32."""
        return self.difference is not None and self.difference.within(tolerance)


def best_rate(seconds: Mapping[int, float]) -> float:
    """Return the most items a second, with any batch size."""
    return max(size / taken_s for size, taken_s in seconds.items())
