"""The rounds: at each number of clients, everybody in turn, again and again.

A machine that others use is slower at one time than at another. Who is compared is measured within
the same minute, and ratios are taken round by round.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import orjson

from comparison.contestants import Contestant, Failed, Running
from comparison.ideal import Ideal
from comparison.results import Results
from comparison.samples import Reference
from comparison.servers import SERVERS

T = TypeVar("T")
IDEAL = "ideal"
CLIENTS = {"tiny": (1, 16, 64, 256), "mlp": (1, 16, 64, 256), "image": (1, 8, 32)}
# So many times as long are turns where an answer to one of many clients takes a second or two.
LONGER = {"image": 2}


class Report(Protocol):
    """Is told what comes next, and how many steps of the plan that is."""

    def __call__(self, text: str, steps: int = 1) -> None: ...


@dataclass(frozen=True)
class Plan:
    """Who is measured, with what, how often and for how long.

    Args:
        servers: by workload, in this order.
        clients: by workload.
        rounds: how often everybody has a turn at each number of clients.
        seconds: how long a turn is, by workload.
    """

    servers: Mapping[str, list[str]]
    clients: Mapping[str, list[int]]
    rounds: int
    seconds: Mapping[str, float]

    def entries(self, workload: str) -> list[str]:
        return [
            name
            for name in self.servers[workload]
            if name == IDEAL or workload in SERVERS[name].workloads
        ]

    def steps(self) -> int:
        """Return how often `report` will be called, at most."""
        return sum(
            len(self.entries(workload)) * (1 + self.rounds * len(clients))
            for workload, clients in self.clients.items()
        )


def seconds_of_turns(workloads: Iterable[str], seconds: float) -> dict[str, float]:
    """Return how long a turn of each workload is, where it usually is so many seconds."""
    return {name: seconds * LONGER.get(name, 1) for name in workloads}


def measure(plan: Plan, results: Results, report: Report) -> Iterator[Results]:
    """Start everybody for one workload after the other and have the rounds.

    Args:
        plan: what is to be done.
        results: are added to.
        report: is told of each start and each visit.

    Yields:
        the results whenever a number of clients is done.
    """
    for workload, clients in plan.clients.items():
        with contestants(workload, plan.entries(workload), results, report) as present:
            for number in clients:
                for turn in range(plan.rounds):
                    seconds = plan.seconds[workload]
                    _round(Turn(workload, number, turn, seconds), present, results, report)
                    absent = len(plan.entries(workload)) - len(present)
                    report(f"{workload}, {number} clients", absent)
                yield results


@dataclass(frozen=True)
class Turn:
    """What everybody has to do in a round."""

    workload: str
    clients: int
    number: int
    seconds: float


def _round(turn: Turn, present: list[Contestant], results: Results, report: Report) -> None:
    for contestant in rotated(present, turn.number):
        place = f"{turn.workload}, {turn.clients} clients, round {turn.number + 1}"
        report(f"{place}: {contestant.name}")
        try:
            visit = contestant.visit(turn.clients, turn.number, turn.seconds)
        except Failed as error:
            results.failed(contestant.name, turn.workload, str(error))
            present.remove(contestant)
        else:
            results.visits.append(visit)


def rotated(present: list[T], turn: int) -> list[T]:
    """Return who comes when: nobody always after the same one at the same place."""
    first = turn % len(present) if present else 0
    return [*present[first:], *present[:first]]


@contextmanager
def contestants(
    workload: str, names: list[str], results: Results, report: Report
) -> Iterator[list[Contestant]]:
    """Start servers, and stop them in the end. Who cannot be started is noted and left out."""
    reference = Reference(workload)
    stops: list[Callable[[], None]] = []
    # A short name: sockets live below it.
    with tempfile.TemporaryDirectory(prefix="bench-") as path, all_at_once(stops):
        folder = Path(path)
        answer = {"output": reference.outputs[0], "model": workload, "version": "1"}
        (folder / "answer.json").write_bytes(orjson.dumps(answer))
        present: list[Contestant] = []
        for name in names:
            report(f"{workload}: starting {name}")
            try:
                present.append(_start(name, workload, folder, reference, stops, results))
            except Failed as error:
                results.failed(name, workload, str(error))
        yield present


@contextmanager
def all_at_once(stops: list[Callable[[], None]]) -> Iterator[None]:
    """Call whatever is in the list in the end: each of them waits for processes to end."""
    try:
        yield
    finally:
        with ThreadPoolExecutor() as pool:
            ending = [pool.submit(stop) for stop in stops]
        for one in ending:
            one.result()


def _start(
    name: str,
    workload: str,
    folder: Path,
    reference: Reference,
    stops: list[Callable[[], None]],
    results: Results,
) -> Contestant:
    if name == IDEAL:
        ideal = Ideal(workload, reference)
        stops.append(ideal.stop)
        results.took_part(name, workload, ideal.settings())
        return ideal
    running = Running(SERVERS[name], workload, folder / name)
    stops.append(running.stop)
    running.make_ready(reference)
    results.took_part(name, workload, SERVERS[name].settings(workload))
    return running
