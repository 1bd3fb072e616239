"""From the options to what is shown."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from rich.console import Console

from batchserve.bench import parsing
from batchserve.bench.advice import advice_on
from batchserve.bench.figures import figures_of, knee_of, points_of
from batchserve.bench.generator import is_refusal
from batchserve.bench.inputs import Inputs, found_out, stated
from batchserve.bench.plot import draw
from batchserve.bench.processes import Interrupted, Load, send
from batchserve.bench.report import Result, outcomes_of, tables_of, write_json
from batchserve.bench.request import Reply, ask
from batchserve.bench.schedule import Arrivals
from batchserve.bench.stage import Stage, closed, open_
from batchserve.bench.tally import Tally
from batchserve.bench.target import Target, TargetError
from batchserve.bench.view import View
from batchserve.plotting import check_plot

CLIENTS = (1, 4, 16, 64)
# Who finds the capacity for `--rate 0.9x`, where nobody says with how many clients.
CROWD = (64,)
# After a request's own deadline, until it is given up.
PATIENCE_S = 1.0
MOST_SHOWN = 500


@dataclass(frozen=True)
class Options:
    """As on the command line."""

    url: str
    files: list[Path] = field(default_factory=list)
    json: list[str] = field(default_factory=list)
    content_type: str | None = None
    method: str | None = None
    header: list[str] = field(default_factory=list)
    clients: str | None = None
    rate: str | None = None
    arrivals: Arrivals = Arrivals.POISSON
    seconds: float = 5.0
    warm_up: float = 1.0
    timeout_ms: float | None = None
    slo_ms: float | None = None
    connections: int = 1000
    processes: int = 1
    seed: int = 0
    unix_socket: Path | None = None
    cacert: Path | None = None
    plot: Path | None = None
    json_out: Path | None = None

    @property
    def slo_s(self) -> float | None:
        return None if self.slo_ms is None else self.slo_ms / 1000

    @property
    def timeout_s(self) -> float:
        return 30.0 if self.timeout_ms is None else self.timeout_ms / 1000 + PATIENCE_S


def run(options: Options) -> None:
    """Measure, and print what is seen.

    Raises:
        ConfigError: an option is wrong.
        TargetError: the server is not there, or a benchmark of its answers would be worth nothing.
    """
    if options.plot is not None:
        check_plot(options.plot)
    console = Console(soft_wrap=True, highlight=False)
    plan = Plan(options)
    inputs = _inputs(options)
    console.print(f"[bold]{inputs.requests[0].method} {inputs.target}[/]: {inputs.description}")
    _try_each(inputs, options.timeout_s)
    load = Load(
        target=inputs.target,
        wires=[request.wire(inputs.target) for request in inputs.requests],
        processes=options.processes,
        connections=options.connections,
        timeout_s=options.timeout_s,
    )
    results = []
    with View(console, plan.length) as view, contextlib.suppress(KeyboardInterrupt):
        for result in _measure(load, plan, view, options.slo_s):
            results.append(result)
            view.end(result.figures)
            plan.learn(result.figures.answered)
    _conclude(console, options, inputs, results)


class Plan:
    """The loads, one after the other.

    Those at a multiple of the capacity count on what was answered before.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._rates = parsing.rates(options.rate) if options.rate else []
        crowd = CROWD if any(rate.is_multiple for rate in self._rates) else ()
        default = crowd if self._rates else CLIENTS
        self._clients = parsing.clients(options.clients) if options.clients else default
        self._capacity = 0.0

    @property
    def length(self) -> int:
        return len(self._clients) + len(self._rates)

    def learn(self, answered: float) -> None:
        """Take what a load was answered, in a second."""
        self._capacity = max(self._capacity, answered)

    def stages(self) -> Iterator[Stage]:
        options = self._options
        for clients in self._clients:
            yield closed(clients, options.seconds, options.warm_up)
        for rate in self._rates:
            wanted = rate.of(self._capacity)
            if wanted:
                yield open_(
                    wanted, options.arrivals, options.seconds, options.warm_up, options.seed
                )


def _inputs(options: Options) -> Inputs:
    target = Target.parse(options.url, options.unix_socket, options.cacert)
    headers = parsing.headers(options.header)
    if options.timeout_ms is not None:
        headers.setdefault("x-request-timeout-ms", f"{options.timeout_ms:g}")
    method = None if options.method is None else parsing.method(options.method)
    given = stated(target, options.files, options.json, options.content_type, method, headers)
    return given or found_out(target, headers)


def _try_each(inputs: Inputs, timeout_s: float) -> None:
    """Send each request once.

    Raises:
        TargetError: a benchmark of such an answer is worth nothing.
    """
    for request in inputs.requests:
        reply = ask(inputs.target, request, timeout_s)
        if not reply.ok:
            what = f" to {request.name}" if request.name else ""
            raise TargetError(f"{inputs.target} answers {reply.status}{what}: {said(reply)}")


def said(reply: Reply) -> str:
    """Return what an answer says of itself, in a line."""
    if "location" in reply.headers:
        return f"see {reply.headers['location']}; give that address instead"
    return message_of(reply.body)


def message_of(body: bytes) -> str:
    """Return the message of an error, as batchserve and many others put it."""
    with contextlib.suppress(orjson.JSONDecodeError):
        answer = orjson.loads(body)
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            return str(answer["error"])
    text = " ".join(body.decode(errors="replace").split())
    return text[:MOST_SHOWN] or "nothing more"


def _measure(load: Load, plan: Plan, view: View, slo_s: float | None) -> Iterator[Result]:
    for stage in plan.stages():
        view.begin(stage)
        begin_s = time.monotonic()
        until_s = stage.all_s
        try:
            tallies = send(load, stage, view.show)
        except Interrupted as stop:
            tallies, until_s = stop.tallies, stop.seconds
            if until_s <= stage.warm_up_s:
                return
        _check(load, stage, tallies, time.monotonic() - begin_s)
        yield Result(figures_of(stage, tallies, slo_s, until_s), *points_of(stage, tallies))
        if until_s < stage.all_s:
            return


def _check(load: Load, stage: Stage, tallies: list[Tally], seconds: float) -> None:
    """Raise where the server does not take what is sent, or nobody has answered at all."""
    messages = {name: body for tally in tallies for name, body in tally.messages.items()}
    for name, body in messages.items():
        if is_refusal(name):
            raise TargetError(f"{load.target} answers {name}: {message_of(body)}")
    outcomes = {name for tally in tallies for name in tally.names}
    if outcomes and not any(name[0] in "25" for name in outcomes):
        raise TargetError(
            f"{stage.name}: no answer within {seconds:.0f} s: {', '.join(sorted(outcomes))}"
        )


def _conclude(console: Console, options: Options, inputs: Inputs, results: list[Result]) -> None:
    if not results:
        raise TargetError("interrupted during the warm-up; nothing was measured")
    all_figures = [result.figures for result in results]
    knee, advice = knee_of(all_figures), list(advice_on(all_figures))
    for table in tables_of(all_figures):
        console.print(table)
    for figures in all_figures:
        if figures.failures:
            console.print(outcomes_of(figures))
    if knee is not None:
        console.print(
            f"the knee is at [bold]{knee.name}[/]: {knee.answered:.1f} answers/s, of "
            f"{max(one.answered for one in all_figures if one.clients):.1f} with any number of them"
        )
    for line in advice:
        console.print(f"[yellow]{line}[/]")
    if options.json_out is not None:
        situation = {
            "target": str(inputs.target),
            "sends": inputs.description,
            "slo_s": options.slo_s,
            "seed": options.seed,
        }
        write_json(options.json_out, situation, all_figures, knee, advice)
    if options.plot is not None:
        draw(options.plot, f"{inputs.target}: {inputs.description}", results, options.slo_s)
        console.print(f"drawn: {options.plot}")
