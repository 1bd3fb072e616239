"""For which sizes of batches recorded passes are used: where they are faster, and answer the same.

Small batches gain most: they are launched for longer than they are computed. So sizes are tried in
rising order, up to the first that is not worth it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from batchserve.runners.base import OutOfMemory
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.cuda_graph import RecordingBroke
from batchserve.runners.device import give_memory_back, ran_out_of_memory
from batchserve.runners.forward import Forward
from batchserve.runners.graphs import Graph, Graphs, NotRecordable, Record, first_worth
from batchserve.runners.layout import ROUNDINGS, TOLERANCE
from batchserve.runners.reproducible import like

# What a recording must save, or it was the machine.
WORTH = 0.05
TRIALS, TRIALS_S = 7, 0.5


class NotWorthIt(Exception):
    """A size that is recorded in vain, and why."""


@dataclass
class Choice:
    """What came of trying.

    Attributes:
        seconds: of a recorded pass, by size, where it is used.
        gain: the most times as fast that one of them is.
        refused: the size with which it ended; None: all are used.
        reason: why.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    gain: float = 1.0
    refused: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        if not self.seconds:
            return f"not used: {self.reason}"
        sizes = ", ".join(map(str, self.seconds))
        used = f"used for batches of {sizes}; up to {self.gain:.2f} times as fast"
        return used if self.refused is None else f"{used}; not for {self.refused}: {self.reason}"


def choose_graphs(
    forward: Forward, example: torch.Tensor, sizes: Sequence[int], record: Record
) -> Choice:
    """Try all sizes, and leave the pass with the recordings that are worth it.

    Args:
        forward: the pass, in which everything else is chosen, and compiled.
        example: one item.
        sizes: of batches.
        record: makes a recording.

    Raises:
        RecordingBroke: only a new process helps.
        Exception: whatever the pass raises as it is.
    """
    sizes = sorted(sizes)
    items = like(example, sizes[-1])
    graphs, choice = Graphs(record), Choice()
    before, before_s = 0, 0.0
    for size in sizes:
        try:
            if size == sizes[0]:
                forward.check_recordable(items[:size])
            graph = forward.record(graphs, items[:size])
            plain_s, graph_s = _compared(forward, graphs, graph, items)
        except RecordingBroke:
            raise
        except Exception as error:  # noqa: BLE001 - as recording fails; without it, it has run
            choice.refused, choice.reason = size, _in_words(error)
            break
        graph.least = first_worth(before, before_s, size, plain_s, graph_s)
        choice.seconds[size] = graph_s
        choice.gain = max(choice.gain, plain_s / graph_s)
        before, before_s = size, plain_s
    if choice.refused is not None:
        # Only here is the error no more, with all that it held.
        graphs.drop(choice.refused)
        give_memory_back(forward.device)
    forward.graphs = graphs if choice.seconds else None
    return _if_there_is_room(forward, items, choice)


def _if_there_is_room(forward: Forward, items: list[torch.Tensor], choice: Choice) -> Choice:
    """What is recorded keeps its memory, and the largest batch needs some, too."""
    if forward.graphs is None:
        return choice
    try:
        forward(items)
    except OutOfMemory:
        forward.graphs = None
        give_memory_back(forward.device)
        return Choice(reason="the largest batch does not fit beside them")
    return choice


def _compared(
    forward: Forward, graphs: Graphs, graph: Graph, items: list[torch.Tensor]
) -> tuple[float, float]:
    """Return the seconds of a pass without the recording, and with it.

    Raises:
        NotWorthIt: it is not faster, or answers differ.
    """
    try:
        for rows in {graph.least, graph.size}:
            _check_answers(forward, graphs, items[:rows])
        plain_s, graph_s = _seconds(forward, graphs, items[: graph.size])
    finally:
        forward.graphs = None
    if graph_s > (1 - WORTH) * plain_s:
        raise NotWorthIt(f"{plain_s / graph_s:.2f} times as fast")
    return plain_s, graph_s


def _check_answers(forward: Forward, graphs: Graphs, items: list[torch.Tensor]) -> None:
    forward.graphs = None
    expected = forward(items)
    forward.graphs = graphs
    difference = largest_difference(forward(items), expected)
    difference /= largest_number(expected) or 1.0
    # Also if it is NaN.
    if not difference <= max(TOLERANCE, ROUNDINGS * forward.rounding):
        raise NotWorthIt(f"answers differ by {difference:.0e} of the largest number")
    if forward.graphs is None:
        raise NotWorthIt("replaying it failed")


def _seconds(forward: Forward, graphs: Graphs, items: list[torch.Tensor]) -> tuple[float, float]:
    """Return the shortest of a few passes each, in turns, as the machine's pace varies."""
    ways: tuple[Graphs | None, ...] = (None, graphs)
    seconds: tuple[list[float], ...] = ([], [])
    until_s = time.perf_counter() + TRIALS_S
    while len(seconds[1]) < TRIALS and (not seconds[1] or time.perf_counter() < until_s):
        for way, took in zip(ways, seconds, strict=True):
            forward.graphs = way
            started_s = time.perf_counter()
            forward(items)
            took.append(time.perf_counter() - started_s)
    return min(seconds[0]), min(seconds[1])


def _in_words(error: Exception) -> str:
    if isinstance(error, NotRecordable | NotWorthIt):
        return str(error)
    if isinstance(error, OutOfMemory) or ran_out_of_memory(error):
        return "the memory does not suffice"
    # What the model did comes before what torch makes of it when the recording ends.
    cause = error.__context__ or error
    return f"{type(cause).__name__}: {cause}"
