"""The options of `batchserve top`, and its loop."""

import time
from functools import partial
from typing import Annotated

import typer

DEFAULT = ["http://127.0.0.1:8000"]
ADDRESS_HELP = "http://HOST:PORT or unix:PATH; of several, the figures add up."


def top(
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="URL…", help=ADDRESS_HELP, show_default=False)
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between updates.", min=0.1)] = 2.0,
    count: Annotated[
        int, typer.Option("--count", "-n", help="End after so many updates; 0: never.", min=0)
    ] = 0,
) -> None:
    """Show what a server is doing, live: rates, latency, batches, queue, refusals."""
    from batchserve.top.scrape import Unreachable  # noqa: PLC0415 - needed by this command only

    try:
        watch(addresses or DEFAULT, interval, count)
    except Unreachable as error:
        typer.echo(f"batchserve: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        pass


def watch(addresses: list[str], interval_s: float, count: int) -> None:
    """Draw so many updates, 0 for no end.

    Raises:
        Unreachable: at the first look; later, one that does not answer is waited for.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from batchserve.top.figures import Window  # noqa: PLC0415
    from batchserve.top.scrape import Unreachable, scrape  # noqa: PLC0415
    from batchserve.top.view import View  # noqa: PLC0415

    console, view = Console(), View(addresses)
    before, drawn = scrape(addresses), 0
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        # Where nobody watches, moments follow each other instead of replacing each other.
        show = partial(live.update, refresh=True) if console.is_terminal else console.print
        while not count or drawn < count:
            time.sleep(interval_s)
            try:
                after = scrape(addresses)
            except Unreachable as error:
                show(view.trouble(str(error)))
                continue
            window = Window(before, after)
            show(view.draw(window.figures(), window.workers))
            before, drawn = after, drawn + 1
