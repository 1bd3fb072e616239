"""The options of `batchserve tune`."""

from pathlib import Path
from typing import Annotated

import typer

from batchserve.config_file import DEFAULT_CONFIG
from batchserve.errors import StartupError
from batchserve.memory import use_tcmalloc

MODEL_HELP = "A model of the config, or NAME:VERSION; default: its first."
BUDGET_HELP = "Seconds, from loading on; Ctrl-C shows what has been measured by then."
TOLERANCE_HELP = (
    "By how much answers may differ from those of fp32: a score by so much, with the same best "
    "class for all inputs, or one that fp32 prefers to it by no more; other numbers by such a "
    "share of the largest."
)


def tune(
    config: Annotated[Path, typer.Argument(help="A YAML file.")] = Path(DEFAULT_CONFIG),
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    budget: Annotated[float, typer.Option(help=BUDGET_HELP, min=0.1)] = 120.0,
    tolerance: Annotated[float, typer.Option(help=TOLERANCE_HELP, min=0)] = 0.02,
    write: Annotated[
        bool, typer.Option("--write", help="Put the lines into the config; comments stay.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="An .svg or .png to draw.")] = None,
    json: Annotated[Path | None, typer.Option(help="A file for all numbers.")] = None,
) -> None:
    """Find out which settings are fastest for a model on this machine, by measurement."""
    # As `serve` does: what is fastest depends on it.
    use_tcmalloc()
    try:
        # What it takes to measure is needed by this command only.
        from batchserve.tuning.session import Options, run  # noqa: PLC0415

        run(
            Options(
                config=config,
                model=model,
                budget=budget,
                tolerance=tolerance,
                write=write,
                plot=plot,
                json=json,
            )
        )
    except StartupError as error:
        typer.echo(f"batchserve: {error}", err=True)
        raise typer.Exit(1) from None
