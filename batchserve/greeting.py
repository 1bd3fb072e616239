"""What a server says once it is there: where it is, and a command with which to try it."""

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve import __version__
from batchserve.config import ServerConfig
from batchserve.repository import ModelVersion

if TYPE_CHECKING:
    import torch

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to find it, not to bind
# An input of more numbers is made by a command of its own.
MOST_NUMBERS = 32
# `make serve` puts it there.
PHOTO = Path("photos/coffee.png")

Address = str | tuple[Any, ...]


def greeting(
    server: ServerConfig, versions: Iterable[ModelVersion], addresses: Iterable[Address]
) -> Iterator[str]:
    """Yield lines for whoever has started the server.

    Args:
        server: how it is configured.
        versions: what it serves.
        addresses: where it listens: a path, or a host and port.
    """
    where = [_Place(address, server) for address in addresses]
    yield (
        f"batchserve {__version__} on {', '.join(map(str, where))}; workers: {server.workers}, "
        f"each with torch threads: {server.threads_of_forward}, "
        f"decoding threads: {server.threads_of_decoding}"
    )
    named: set[str] = set()
    for version in versions:
        if where and version.name not in named:
            path = f"/models/{version.name}/predict" if named else "/predict"
            yield f"try {version.name}: {_command(version, where[0], path)}"
            named.add(version.name)


class _Place:
    """An address, as a user and as curl know it."""

    def __init__(self, address: Address, server: ServerConfig) -> None:
        scheme = "http" if server.tls is None else "https"
        options = [] if server.tls is None else ["--cacert", shlex.quote(server.tls.cert)]
        if isinstance(address, str):
            self._name, self.base = f"unix:{address}", f"{scheme}://localhost"
            options += ["--unix-socket", shlex.quote(address)]
        else:
            host = ANY_ADDRESS.get(address[0]) or str(address[0])
            host = f"[{host}]" if ":" in host else host
            self._name = self.base = f"{scheme}://{host}:{address[1]}"
        if server.api_keys is not None:
            options += ["-H", '"X-API-Key: $KEY"']
        self.option = "".join(f"{option} " for option in options)

    def __str__(self) -> str:
        return self._name


def _command(version: ModelVersion, place: _Place, path: str) -> str:
    task, url = version.task, f"{place.base}{path}"
    if any(kind.startswith("image/") for kind in task.media_types):
        photo = PHOTO if PHOTO.exists() else Path("photo.jpg")
        return f"curl {place.option}-F file=@{photo} {url}"
    json_to = f"curl {place.option}-H 'Content-Type: application/json' {url} -d"
    example = task.example()
    if version.config.task != "tensor" or example is None:
        return f"{json_to} '{{\"input\": …}}', as {place.base}/docs says"
    if example.numel() <= MOST_NUMBERS:
        return f"{json_to} {shlex.quote(json.dumps({'input': example.tolist()}))}"
    return f"python3 -c {shlex.quote(_program(example))} | {json_to} @-"


def _program(example: "torch.Tensor") -> str:
    """Return Python that prints a body with an input of this shape, all zeros."""
    numbers = repr(example.flatten()[0].item())
    for size in reversed(example.shape):
        numbers = f"[{numbers}] * {size}"
    return f'import json; print(json.dumps({{"input": {numbers}}}))'
