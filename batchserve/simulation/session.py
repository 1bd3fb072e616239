"""`batchserve simulate`: from the options to what is printed, drawn and written."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from batchserve.config import Config, ModelConfig
from batchserve.config_file import read_config
from batchserve.errors import ConfigError
from batchserve.plotting import check_plot
from batchserve.simulation import parsing
from batchserve.simulation.machine import Machine
from batchserve.simulation.measure import measure
from batchserve.simulation.plot import draw
from batchserve.simulation.recording import Recording, read_recording
from batchserve.simulation.report import Bound, table_of, write_json
from batchserve.simulation.rivals import ORACLE, OURS
from batchserve.simulation.study import Study

PATTERNS = ("poisson", "bursty", "diurnal")
# The bar moves once in so many requests.
PROGRESS_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line, of the same names; see `command.py` for what they mean."""

    config: Path
    model: str | None
    arrivals: str
    rate: str | None
    seconds: float
    forward_ms: str | None
    passes: Path | None
    noise: float | None
    slowdown: str | None
    request_ms: float
    batch_ms: float
    decode_ms: float
    slo_ms: float | None
    timeout_ms: float | None
    items: str
    priorities: str
    burst: str
    devices: int
    retry: int
    against: list[str]
    seed: int
    plot: Path | None
    json: Path | None


def run(options: Options) -> None:
    """Simulate, and show what comes of it.

    Raises:
        StartupError: the config or an option is wrong, or the model cannot be measured.
    """
    if options.plot is not None:
        check_plot(options.plot)
    study = _study(options)
    policies = [OURS, *(policy for policy in options.against if policy != ORACLE)]
    with _progress() as progress:
        outcomes = [study.look(policy, _ticker(progress, policy, study)) for policy in policies]
        bound = _bound(progress, study) if ORACLE in options.against else None
    console = Console()
    console.print(_heading(study))
    console.print(table_of(outcomes, bound))
    if options.json is not None:
        write_json(options.json, study.situation(), outcomes, bound)
    if options.plot is not None:
        draw(options.plot, outcomes, study.promise_s)
        console.print(f"drawn: {options.plot}")


def _study(options: Options) -> Study:
    config = read_config(options.config, os.environ)
    model = _with_promise(_choose(config, options.model), options.slo_ms)
    recording = _recording_of(options.arrivals)
    machine = _machine(options, config, model, recording)
    study = Study(
        model=model,
        machine=machine,
        largest=model.batching.max_batch_size or max(machine.forward_s),
        default_timeout_ms=config.server.default_timeout_ms,
        seconds=options.seconds,
        bursts=parsing.bursts(options.burst),
        items=parsing.items_mix(options.items),
        priorities=parsing.priorities_mix(options.priorities),
        timeout_ms=options.timeout_ms,
        devices=options.devices,
        retries=options.retry,
        seed=options.seed,
    )
    return _arrive(study, options.arrivals, options.rate, recording)


def _machine(
    options: Options, config: Config, model: ModelConfig, recording: Recording | None
) -> Machine:
    observed = recording if options.passes is None else read_recording(options.passes)
    return Machine(
        forward_s=_forward_s(
            options.forward_ms, observed, lambda: _measure(config, model, options.config)
        ),
        noise=options.noise or 0.0,
        ratios=_ratios(options.forward_ms, options.noise, observed),
        batch_s=options.batch_ms / 1000,
        request_s=options.request_ms / 1000,
        decode_s=options.decode_ms / 1000,
        decoders=config.server.threads_of_decoding,
        slowdowns=parsing.slowdowns(options.slowdown) if options.slowdown else (),
    )


def _choose(config: Config, name: str | None) -> ModelConfig:
    found = [model for model in config.models if name in (None, model.name)]
    if not found:
        known = ", ".join(model.name for model in config.models)
        raise ConfigError(f"--model {name}: the config has {known}")
    return found[0]


def _with_promise(model: ModelConfig, slo_ms: float | None) -> ModelConfig:
    if slo_ms is None:
        return model
    if slo_ms <= 0:
        raise ConfigError(f"--slo-ms {slo_ms:g}: write milliseconds above 0")
    return model.model_copy(update={"slo_ms": slo_ms})


def _recording_of(arrivals: str) -> Recording | None:
    if arrivals in PATTERNS or arrivals.startswith("closed:"):
        return None
    if not Path(arrivals).exists():
        raise ConfigError(
            f"--arrivals {arrivals}: neither a pattern ({', '.join(PATTERNS)}, closed:CLIENTS) nor "
            f"a file"
        )
    return read_recording(Path(arrivals))


def _forward_s(
    stated: str | None, observed: Recording | None, measured: Callable[[], dict[int, float]]
) -> dict[int, float]:
    if stated is not None:
        return parsing.forward_seconds(stated)
    if observed is not None and observed.passes_s:
        return observed.forward_s
    seconds = measured()
    if not seconds:
        raise ConfigError(
            "nothing tells the shape of an input, so passes cannot be measured; set input_shape "
            "in the config, or --forward-ms"
        )
    return seconds


def _ratios(
    stated: str | None, noise: float | None, observed: Recording | None
) -> tuple[float, ...]:
    if stated is not None or noise is not None or observed is None:
        return ()
    return tuple(observed.ratios)


def _measure(config: Config, model: ModelConfig, path: Path) -> dict[int, float]:
    with Console(stderr=True).status(f"loading and warming up {model.name} …"):
        return measure(config, model, path.resolve().parent)


def _arrive(study: Study, arrivals: str, rate: str | None, recording: Recording | None) -> Study:
    if arrivals.startswith("closed:"):
        clients = arrivals.removeprefix("closed:")
        if not clients.isdecimal() or int(clients) < 1:
            raise ConfigError(f"--arrivals {arrivals}: write closed:16, with 1 client or more")
        return replace(study, pattern="closed", clients=int(clients))
    if recording is None:
        wanted = parsing.rate(rate or "0.8x", study.capacity)
        return replace(study, pattern=arrivals, rate=wanted)
    return _replay(study, rate, recording)


def _replay(study: Study, rate: str | None, recording: Recording) -> Study:
    if not recording.arrivals_s:
        raise ConfigError("--arrivals: the recording holds no arrivals")
    span_s = max(recording.arrivals_s[-1], 1e-3)
    recorded = len(recording.arrivals_s) / span_s
    wanted = parsing.rate(rate, study.capacity) if rate is not None else recorded
    # Another rate replays the same faster or slower.
    times_s = [at_s * recorded / wanted for at_s in recording.arrivals_s]
    return replace(
        study, pattern="recorded", rate=wanted, recorded_s=times_s, seconds=times_s[-1] + 1e-3
    )


def _bound(progress: Progress, study: Study) -> Bound:
    progress.add_task(ORACLE, total=None)
    return study.bound()


def _progress() -> Progress:
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _ticker(progress: Progress, policy: str, study: Study) -> Callable[[float], None]:
    task = progress.add_task(policy, total=study.seconds)
    sent = 0

    def tick(now_s: float) -> None:
        nonlocal sent
        sent += 1
        if sent % PROGRESS_EVERY == 0:
            progress.update(task, completed=now_s)

    return tick


def _heading(study: Study) -> str:
    forward = ", ".join(
        f"{size}: {1000 * seconds:.1f}" for size, seconds in study.machine.forward_s.items()
    )
    load = (
        f"{study.clients} clients"
        if study.pattern == "closed"
        else f"{study.rate:.1f} requests/s ({study.rate / study.capacity:.2f} of capacity)"
    )
    promise = "no promise" if study.promise_s is None else f"promise {1000 * study.promise_s:g} ms"
    return (
        f"[bold]{study.model.name}[/] on {study.devices} device(s), {promise}, {study.pattern}: "
        f"{load}, {study.seconds:.3g} s, seed {study.seed}\nforward ms by batch size: {forward}"
    )
