"""The commands: `batchserve serve`, `check`, `simulate`, `bench`, `top` and `version`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from batchserve import __version__
from batchserve.bench.command import bench
from batchserve.config import Config
from batchserve.config_file import DEFAULT_CONFIG, ENV_CONFIG, ENV_PREFIX, read_config
from batchserve.errors import StartupError
from batchserve.memory import use_huge_pages, use_tcmalloc
from batchserve.simulation.command import simulate
from batchserve.top.command import top
from batchserve.tuning.command import tune
from batchserve.urls import is_url

main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve a PyTorch model over HTTP, in batches.",
)
ConfigArgument = Annotated[Path, typer.Argument(help="A YAML file.", show_default=True)]


@main.command()
def serve(
    config: ConfigArgument = Path(DEFAULT_CONFIG),
    bind: Annotated[str | None, typer.Option(help="host:port or unix:PATH.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.")] = None,
) -> None:
    """Serve the models of a config, with Gunicorn and uvloop."""
    use_tcmalloc()
    from batchserve.gunicorn_settings import Server  # noqa: PLC0415 - needed only here

    # Through the environment, so that workers and reloads see the same.
    os.environ[ENV_CONFIG] = str(config)
    if bind is not None:
        os.environ[f"{ENV_PREFIX}SERVER__BIND"] = bind
    if workers is not None:
        os.environ[f"{ENV_PREFIX}SERVER__WORKERS"] = str(workers)
    try:
        Server().run()
    except StartupError as error:
        _fail(error)


@main.command()
def check(config: ConfigArgument = Path(DEFAULT_CONFIG)) -> None:
    """Validate a config, load its models, run a forward pass, and say what serving will do."""
    sys.path.insert(0, str(config.resolve().parent))
    try:
        valid = read_config(config, os.environ)
        # Importing torch takes seconds, which only this command needs to spend.
        use_huge_pages()
        _download(valid)
        _describe(valid, asyncio.run(_load(valid)))
        _describe_quantized(valid)
        Console().print("[green]OK[/], every model has been loaded.")
    except StartupError as error:
        _fail(error)


main.command()(tune)
main.command()(simulate)
main.command()(bench)
main.command()(top)


@main.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _download(config: Config) -> None:
    """Fetch what is at URLs, with a progress bar that nothing else draws over."""
    sources = [(model.source, model.sha256) for model in config.models if is_url(model.source)]
    if sources:
        from batchserve.loading.download import fetch  # noqa: PLC0415

        for source, sha256 in sources:
            fetch(source, sha256)


async def _load(config: Config) -> list[dict[str, Any]]:
    from batchserve.own_thread import keep_to_one_core  # noqa: PLC0415
    from batchserve.repository import ModelRepository  # noqa: PLC0415
    from batchserve.web.description import describe  # noqa: PLC0415

    keep_to_one_core()
    repository = ModelRepository(config.models, threads=config.server.threads_of_forward)
    with Console(stderr=True).status("loading and warming up …"):
        await repository.load()
    described = [describe(model) for model in repository.versions]
    await repository.close()
    return described


def _describe(config: Config, models: list[dict[str, Any]]) -> None:
    server = config.server
    console = Console()
    console.print(
        f"[bold]{server.bind}[/], workers: {server.workers}, each with torch threads: "
        f"{server.threads_of_forward}, decoding threads: {server.threads_of_decoding}"
    )
    table = Table("model", "task", "runs on", "batches", "forward ms by batch size")
    for model in models:
        batching = model["batching"]
        table.add_row(
            f"{model['name']}:{model['version']}",
            model["task"],
            f"{model['device']}, {model['precision']}, {model['runner']}",
            f"≤ {model['max_batch_size']}, ≤ {batching['max_wait_ms']:g} ms, "
            f"{batching['policy']}, queue ≤ {batching['max_queue_size']}",
            ", ".join(f"{size}: {ms:.1f}" for size, ms in model["forward_ms"].items()),
        )
    console.print(table)
    for endpoint in config.endpoints:
        version = "" if endpoint.version is None else f":{endpoint.version}"
        promise = "" if endpoint.slo_ms is None else f", within {endpoint.slo_ms:g} ms"
        default = "" if endpoint.default_output is None else ", or its default output"
        console.print(f"{endpoint.path} → {endpoint.model}{version}{promise}{default}")


def _describe_quantized(config: Config) -> None:
    """Say what quantising gives and takes: the same model is loaded once more, without it."""
    quantized = [model for model in config.models if model.quantize is not None]
    if not quantized:
        return
    from batchserve.runners.comparison import compare_with_unquantized  # noqa: PLC0415

    table = Table("model", "quantised", "MB", "answers differ by", "forward ms by batch size")
    for model in quantized:
        found = compare_with_unquantized(model, config.server.threads_of_forward)
        sides = [found.plain, found.changed]
        table.add_row(
            f"{model.name}:{model.version}",
            model.quantize,
            " → ".join(f"{side.bytes / 1e6:.1f}" for side in sides),
            "no example to ask about"
            if found.difference is None
            else f"≤ {found.difference:.2g}, of up to {found.magnitude:.2g}",
            ", ".join(
                f"{size}: " + " → ".join(f"{1000 * side.forward_s[size]:.1f}" for side in sides)
                for size in found.plain.forward_s
            ),
        )
    Console().print(table)


def _fail(error: StartupError) -> None:
    typer.echo(f"batchserve: {error}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
