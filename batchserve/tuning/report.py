"""What came of it, for people and for programs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from batchserve.errors import ConfigError
from batchserve.runners.difference import Difference
from batchserve.tuning.changes import Changes
from batchserve.tuning.choice import Choice
from batchserve.tuning.outcome import Outcome

COLUMNS = (
    *("threads", "batch", "items/s", "pass\nms", "alone\nms", "MB"),
    *("differs\nby", "same\nbest", "ready\ns"),
)


def table_of(outcomes: Sequence[Outcome], choice: Choice | None) -> Table:
    """Return what was measured, a line for each variant: at the knee, where a batch pays most."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        if outcome.measured:
            is_best = choice is not None and outcome is choice.best
            table.add_row(*_cells(outcome), style="bold green" if is_best else None)
    return table


def line_of(outcome: Outcome) -> str:
    """Return a variant in a line, until the table comes."""
    if outcome.dropped is not None:
        return f"{outcome.variant}: {outcome.dropped}"
    return (
        f"{outcome.variant}: {_digits(outcome.rate)} items/s in batches of {outcome.knee}, with "
        f"{_count(outcome.threads, 'thread')}, ready after {outcome.ready_s:.1f} s"
    )


def dropped_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a line for each variant that was given up."""
    for outcome in outcomes:
        if outcome.dropped is not None:
            yield f"{outcome.variant}: {outcome.dropped}"


def advice_on(choice: Choice, cores: int, workers: int, *, needs_compiler: bool) -> Iterator[str]:
    """Yield what is recommended, what it gives and what it costs, in sentences."""
    best, plain = choice.best, choice.plain
    if best is plain:
        yield f"{best.variant}: nothing that was tried is so much faster that it is worth its price"
    else:
        yield (
            f"{best.variant}: {choice.gain:.2f} times as many items/s as {plain.variant}, and one "
            f"alone takes {choice.later:.2f} times as long"
        )
    if best.variant.compile and needs_compiler:
        yield (
            f"it costs a C++ compiler and, at the first start, compiling: {best.ready_s:.0f} s here"
        )
    if not best.variant.keeps_answers and best.difference is not None:
        yield f"it costs digits: the answers {best.difference}"
    if best.threads * workers < cores:
        yield (
            f"a pass uses {_count(best.threads, 'thread')}, and this machine has {cores} cores: "
            f"server.workers: {cores // best.threads} would use them all, each worker with a model "
            f"of its own"
        )


def write_json(
    path: Path,
    situation: dict[str, Any],
    outcomes: Sequence[Outcome],
    choice: Choice | None,
    changes: Changes | None,
) -> None:
    """Write all numbers; times in seconds, null where there is none.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {
        **situation,
        "variants": [_plain(outcome) for outcome in outcomes],
        "recommended": None if choice is None else str(choice.best.variant),
        "changes": None
        if changes is None
        else {"server": changes.server, "model": {**changes.model, "batching": changes.batching}},
    }
    try:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}; name another file") from None


def _cells(outcome: Outcome) -> list[str]:
    return [
        str(outcome.variant),
        str(outcome.threads),
        str(outcome.knee),
        _digits(outcome.rate),
        _digits(1000 * outcome.pass_s),
        _digits(1000 * outcome.alone_s),
        _digits(outcome.bytes / 1e6),
        *_shortly(outcome.difference),
        f"{outcome.ready_s:.1f}",
    ]


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"  # noqa: PLR2004 - three digits


def _shortly(difference: Difference | None) -> tuple[str, str]:
    """Return the difference, and of scores how many inputs have the same best class."""
    if difference is None:
        return "-", "-"
    if difference.same_best is None:
        return f"{difference.weight:.1g}", "-"
    return f"{difference.weight:.1g}", f"{difference.same_best}/{difference.inputs}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plain(outcome: Outcome) -> dict[str, Any]:
    difference = outcome.difference
    found: dict[str, Any] = {
        "variant": str(outcome.variant),
        "precision": outcome.variant.precision,
        "quantize": outcome.variant.quantize,
        "channels_last": outcome.variant.channels_last,
        "compile": outcome.variant.compile,
        "dropped": outcome.dropped,
        "bytes": outcome.bytes,
        "ready_s": outcome.ready_s,
        "cells": [
            {"threads": threads, "batch_size": size, "seconds": seconds}
            for (threads, size), seconds in sorted(outcome.cells.items())
        ],
        "difference": None
        if difference is None
        else {
            "largest": difference.largest,
            "magnitude": difference.magnitude,
            "inputs": difference.inputs,
            "same_best": difference.same_best,
            "lead": difference.lead,
        },
    }
    if outcome.measured:
        found |= {
            "threads": outcome.threads,
            "batch_size": outcome.knee,
            "items_per_second": outcome.rate,
            "pass_s": outcome.pass_s,
            "alone_s": outcome.alone_s,
        }
    return found
