"""`batchserve tune`: from the options to what is printed, drawn and written."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax

from batchserve.batching.knee import powers_of_two
from batchserve.config import Config, ModelConfig
from batchserve.config_file import read_config
from batchserve.cores import usable_cores
from batchserve.errors import ConfigError
from batchserve.loading import pick_device, remember_compiled, stop_compiling
from batchserve.memory import use_huge_pages
from batchserve.own_thread import keep_to_one_core
from batchserve.plotting import check_plot
from batchserve.repository.advice import longest_pass_s
from batchserve.runners.candidate import Candidate, Subject
from batchserve.runners.warmup import MOST
from batchserve.tuning.budget import Budget
from batchserve.tuning.changes import Changes, changes_for
from batchserve.tuning.choice import Choice, choose
from batchserve.tuning.outcome import Outcome
from batchserve.tuning.plot import draw
from batchserve.tuning.report import advice_on, dropped_of, table_of, write_json
from batchserve.tuning.sweep import LONG_PASS_S, Plan, Sweep
from batchserve.tuning.variant import Variant, uncompiled, worth_compiling
from batchserve.tuning.view import View
from batchserve.tuning.writing import check_writing, write_changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line, of the same names; see `command.py` for what they mean."""

    config: Path
    model: str | None
    budget: float
    tolerance: float
    write: bool
    plot: Path | None
    json: Path | None


def run(options: Options) -> None:
    """Measure, and show what comes of it.

    Raises:
        StartupError: the config or an option is wrong, or the model cannot be measured.
    """
    if options.plot is not None:
        check_plot(options.plot)
    if options.write:
        check_writing()
    config = read_config(options.config, os.environ)
    place = _place_of(config, options.model)
    model = config.models[place]
    sys.path.insert(0, str(options.config.resolve().parent))
    use_huge_pages()
    outcomes, needs_compiler = _measure(options, config, model)
    choice = choose(outcomes, options.tolerance)
    changes = None
    if choice is not None:
        orders_tried = needs_compiler and any(one.variant.channels_last for one in outcomes)
        changes = changes_for(choice.best, config, place, orders_tried=orders_tried)
    _conclude(options, config, model, outcomes, choice, changes, needs_compiler=needs_compiler)


def _measure(options: Options, config: Config, model: ModelConfig) -> tuple[list[Outcome], bool]:
    """Return what was found out, and whether compiling takes a compiler."""
    console = Console(stderr=True)
    budget = Budget(options.budget)
    with View(console, budget) as view:
        keep_to_one_core()
        subject = Subject(model)

        def make(variant: Variant, threads: int) -> Candidate:
            return subject.make(variant.apply(model), threads)

        variants = uncompiled(model, subject)
        plan = Plan(
            variants=variants,
            compile=worth_compiling(variants, model) if subject.can_be_compiled else (),
            threads=[1] if subject.on_cuda else powers_of_two(config.server.threads_of_forward),
            largest=min(MOST, model.batching.max_queue_size, subject.largest_batch or MOST),
            tolerance=options.tolerance,
            longest_s=_longest_s(model, config.server.threads_of_forward, subject),
        )
        sweep = Sweep(make, plan, budget, view, abandon=stop_compiling)
        try:
            sweep.run()
        except KeyboardInterrupt:
            if not any(outcome.measured for outcome in sweep.outcomes):
                raise ConfigError("interrupted before anything was measured") from None
            console.print("interrupted: this is what has been measured so far")
    if subject.needs_compiler:
        _remember_what_is_compiled(sweep.outcomes, model, subject)
    return sweep.outcomes, subject.needs_compiler


def _remember_what_is_compiled(
    outcomes: list[Outcome], model: ModelConfig, subject: Subject
) -> None:
    for outcome in outcomes:
        if outcome.variant.compile and outcome.difference is not None:
            made = outcome.variant.apply(model)
            threads = 1 if subject.runs_at_once else outcome.threads
            remember_compiled(made, threads, channels_last=outcome.variant.channels_last)


def _conclude(
    options: Options,
    config: Config,
    model: ModelConfig,
    outcomes: list[Outcome],
    choice: Choice | None,
    changes: Changes | None,
    *,
    needs_compiler: bool,
) -> None:
    console = Console(soft_wrap=True, highlight=False)
    cores, workers = usable_cores(), config.server.workers
    title = f"{model.key} on {pick_device(model.device)}: {cores} cores, workers: {workers}"
    console.print(f"[bold]{title}[/]")
    console.print(table_of(outcomes, choice))
    for line in dropped_of(outcomes):
        console.print(f"[dim]{line}[/]")
    if choice is None or changes is None:
        console.print("no variant answers as fp32 does; raise --tolerance to allow more")
    else:
        for line in advice_on(choice, cores, workers, needs_compiler=needs_compiler):
            console.print(line)
        _show_changes(console, options, changes)
    situation = {
        "model": model.key,
        "cores": cores,
        "workers": workers,
        "budget_s": options.budget,
        "tolerance": options.tolerance,
    }
    if options.json is not None:
        write_json(options.json, situation, outcomes, choice, changes)
    if options.plot is not None:
        draw(options.plot, title, outcomes, choice)
        console.print(f"drawn: {options.plot}")


def _show_changes(console: Console, options: Options, changes: Changes) -> None:
    if not changes:
        console.print(f"{options.config} says so already: nothing to change")
        return
    console.print(f"\n{'written into' if options.write else 'in'} {options.config}:\n")
    if options.write:
        write_changes(options.config, changes)
    shown = Syntax(changes.yaml, "yaml", background_color="default")
    console.print(shown if console.is_terminal else changes.yaml, markup=False)


def _longest_s(model: ModelConfig, cores: int, subject: Subject) -> float:
    """Return how much time a pass may take: who comes during one waits for two."""
    # Of several at the same time, each is told by its share.
    return min(LONG_PASS_S, longest_pass_s(model)) / (cores if subject.runs_at_once else 1)


def _place_of(config: Config, name: str | None) -> int:
    for place, model in enumerate(config.models):
        if name in (None, model.name, model.key):
            return place
    known = ", ".join(model.name for model in config.models)
    raise ConfigError(f"--model {name}: the config has {known}")
