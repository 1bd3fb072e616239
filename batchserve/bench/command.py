"""The options of `batchserve bench`."""

from pathlib import Path
from typing import Annotated

import typer

from batchserve.errors import BatchserveError

URL_HELP = "http://HOST:PORT[/PATH] or unix:SOCKET; of a batchserve, the input is found out."
FILE_HELP = "A file to send as it is; several are sent in turn."
JSON_HELP = "JSON to send; several are sent in turn."
CLIENTS_HELP = "Closed loop: clients that wait for their answers; several in turn, as in 1,16,64."
RATE_HELP = (
    "Open loop: requests/s, whatever becomes of them; several in turn, as in 50,100, or multiples "
    "of what clients got, as in 0.5x,0.9x."
)
TIMEOUT_HELP = "X-Request-Timeout-Ms; a second later, a request is given up. Without: after 30 s."
URL = "http://127.0.0.1:8000"


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help=URL_HELP)] = URL,
    file: Annotated[list[Path] | None, typer.Option("--file", "--body", help=FILE_HELP)] = None,
    json: Annotated[list[str] | None, typer.Option(help=JSON_HELP)] = None,
    content_type: Annotated[
        str | None, typer.Option(help="Of what is sent; told by the file's name otherwise.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="POST with a body, GET without, if not stated.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="NAME: VALUE; may be repeated.")
    ] = None,
    clients: Annotated[str | None, typer.Option("--clients", "-c", help=CLIENTS_HELP)] = None,
    rate: Annotated[str | None, typer.Option("--rate", "-r", help=RATE_HELP)] = None,
    arrivals: Annotated[
        str, typer.Option(help="Of the open loop: poisson, or constant (with equal gaps).")
    ] = "poisson",
    seconds: Annotated[float, typer.Option(help="That are measured, of each load.", min=0.1)] = 5.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before, that are not.", min=0)] = 1.0,
    timeout_ms: Annotated[float | None, typer.Option(help=TIMEOUT_HELP)] = None,
    slo_ms: Annotated[
        float | None, typer.Option(help="How soon an answer is good; `in time/s` counts these.")
    ] = None,
    connections: Annotated[int, typer.Option(help="At most so many.", min=1)] = 1000,
    processes: Annotated[int, typer.Option(help="That send.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="The same seed, the same moments.")] = 0,
    unix_socket: Annotated[
        Path | None, typer.Option(help="Connect to this instead of the URL's host.")
    ] = None,
    cacert: Annotated[
        Path | None, typer.Option(help="A PEM file with who signs the server's certificate.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="An .svg or .png to draw.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="A file for all numbers.")] = None,
) -> None:
    """Load a server, and say how it fares: throughput, latency, batches, what goes wrong."""
    # What it takes to measure is needed by this command only.
    from batchserve.bench.parsing import arrivals_of, positive  # noqa: PLC0415
    from batchserve.bench.session import Options, run  # noqa: PLC0415

    try:
        run(
            Options(
                url=url,
                files=file or [],
                json=json or [],
                content_type=content_type,
                method=method,
                header=header or [],
                clients=clients,
                rate=rate,
                arrivals=arrivals_of(arrivals),
                seconds=seconds,
                warm_up=warm_up,
                timeout_ms=positive("--timeout-ms", timeout_ms),
                slo_ms=positive("--slo-ms", slo_ms),
                connections=connections,
                processes=processes,
                seed=seed,
                unix_socket=unix_socket,
                cacert=cacert,
                plot=plot,
                json_out=json_out,
            )
        )
    except BatchserveError as error:
        typer.echo(f"batchserve: {error}", err=True)
        raise typer.Exit(1) from None
