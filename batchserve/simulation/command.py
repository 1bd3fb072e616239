"""The options of `batchserve simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from batchserve.config_file import DEFAULT_CONFIG
from batchserve.errors import StartupError

MODEL_HELP = "A model of the config; default: its first."
ARRIVALS_HELP = "poisson, bursty, diurnal, closed:CLIENTS, or the FILE of a recording."
RATE_HELP = "Requests/s, as in 50; or as a multiple of what the devices can do, as in 0.8x."
FORWARD_HELP = "What passes take, by batch size, as in 1:30,8:200; default: load and measure."
PASSES_HELP = "Take what passes took from this recording."
AGAINST_HELP = "fixed:N:T, aimd, aimd:MS or oracle, for comparison; may be repeated."


def simulate(
    config: Annotated[Path, typer.Argument(help="A YAML file.")] = Path(DEFAULT_CONFIG),
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    arrivals: Annotated[str, typer.Option(help=ARRIVALS_HELP)] = "poisson",
    rate: Annotated[str | None, typer.Option(help=f"{RATE_HELP} Default: 0.8x.")] = None,
    seconds: Annotated[float, typer.Option(help="Of simulated time.", min=0.001)] = 60.0,
    forward_ms: Annotated[str | None, typer.Option(help=FORWARD_HELP)] = None,
    passes: Annotated[Path | None, typer.Option(help=PASSES_HELP)] = None,
    noise: Annotated[
        float | None, typer.Option(help="Of a pass: standard deviation of its logarithm.", min=0)
    ] = None,
    slowdown: Annotated[
        str | None, typer.Option(help="Seconds and factors, as in 10:2,20:1.")
    ] = None,
    request_ms: Annotated[
        float, typer.Option(help="Reading and answering a request, on the loop.", min=0)
    ] = 0.0,
    batch_ms: Annotated[float, typer.Option(help="Handing a batch over.", min=0)] = 0.0,
    decode_ms: Annotated[float, typer.Option(help="Decoding an input, on a thread.", min=0)] = 0.0,
    slo_ms: Annotated[float | None, typer.Option(help="Instead of the config's.")] = None,
    timeout_ms: Annotated[float | None, typer.Option(help="X-Request-Timeout-Ms.")] = None,
    items: Annotated[str, typer.Option(help="Inputs per request: 4, or 1:0.9,8:0.1.")] = "1",
    priorities: Annotated[str, typer.Option(help="interactive:0.2,bulk:0.8, say.")] = "normal",
    burst: Annotated[
        str, typer.Option(help="bursty: times the rate, share of time, seconds from one to next.")
    ] = "3:0.2:5",
    devices: Annotated[int, typer.Option(help="Processes, each with its own.", min=1)] = 1,
    retry: Annotated[int, typer.Option(help="Tries more, after Retry-After.", min=0)] = 0,
    against: Annotated[list[str] | None, typer.Option(help=AGAINST_HELP)] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same run.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="An .svg or .png to draw.")] = None,
    json: Annotated[Path | None, typer.Option(help="A file for all numbers.")] = None,
) -> None:
    """Say what serving a config will do under a load: the server's own code, in virtual time."""
    # What it takes to simulate is needed by this command only.
    from batchserve.simulation.session import Options, run  # noqa: PLC0415

    options = Options(
        config=config,
        model=model,
        arrivals=arrivals,
        rate=rate,
        seconds=seconds,
        forward_ms=forward_ms,
        passes=passes,
        noise=noise,
        slowdown=slowdown,
        request_ms=request_ms,
        batch_ms=batch_ms,
        decode_ms=decode_ms,
        slo_ms=slo_ms,
        timeout_ms=timeout_ms,
        items=items,
        priorities=priorities,
        burst=burst,
        devices=devices,
        retry=retry,
        against=against or [],
        seed=seed,
        plot=plot,
        json=json,
    )
    try:
        run(options)
    except StartupError as error:
        typer.echo(f"batchserve: {error}", err=True)
        raise typer.Exit(1) from None
