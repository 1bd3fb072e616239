"""Makes the connections, and stands where aiohttp's own server would."""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial

from aiohttp import web
from pydantic import ValidationError

from batchserve.config import ServerConfig
from batchserve.errors import RequestError
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.web.access_log import AccessLog, Entry
from batchserve.web.body import INLINE_PARSE_BYTES
from batchserve.web.fast_path.connection import Connection
from batchserve.web.fast_path.exchange import Exchange
from batchserve.web.fast_path.head import Head, read_head
from batchserve.web.fast_path.services import Services

END_OF_HEAD = b"\r\n\r\n"
MOST_HEAD = 2048
# Most clients send the same head each time, byte for byte, and few servers have more clients.
HEADS = 256
# How late an answer may come that says that it is too late.
LOOK_S = 0.02


class FastPath:
    """A protocol factory in front of another.

    Args:
        aiohttps: the one that makes aiohttp's protocols, for what is not for the fast path.
        config: of the server.
        repository: the models.
        services: what exchanges use.
        access_log: to which each answer is written; None: there is none.

    Attributes:
        connections: those that are not aiohttp's.
    """

    def __init__(
        self,
        aiohttps: web.Server,
        config: ServerConfig,
        repository: ModelRepository,
        services: Services,
        access_log: AccessLog | None,
    ) -> None:
        self.connections: set[Connection] = set()
        self.make_aiohttps = aiohttps
        self._repository = repository
        self._services = services
        self._access_log = access_log
        self._most_bytes = min(config.max_body_bytes, INLINE_PARSE_BYTES - 1)
        self._read_head = lru_cache(HEADS)(partial(read_head, server=config))
        self._looking: asyncio.TimerHandle | None = None

    # What the runner and Gunicorn's worker call.

    def __call__(self) -> asyncio.Protocol:
        return Connection(self)

    @property
    def requests_count(self) -> int:
        return self._services.traffic.count

    def all_connections(self) -> list[asyncio.Protocol]:
        """Return those that there are, aiohttp's too."""
        return [*self.connections, *self.make_aiohttps.connections]

    def pre_shutdown(self) -> None:
        for connection in list(self.connections):
            connection.finish()
        self.make_aiohttps.pre_shutdown()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as aiohttp's
        """Wait for what is being answered, as long as that, and close what is left."""
        await asyncio.gather(self._finish(timeout or 0.0), self.make_aiohttps.shutdown(timeout))

    # What connections call.

    def begin(
        self, data: bytes, on_answer: Callable[[Exchange, bytes], None]
    ) -> tuple[Exchange, int] | None:
        """Begin to answer a request, and return where its body begins.

        None: it is not for the fast path. Nothing has happened then.
        """
        end = data.find(END_OF_HEAD, 0, MOST_HEAD) + len(END_OF_HEAD)
        head = self._read_head(data[:end]) if end >= len(END_OF_HEAD) else None
        model = head and self._find(head)
        if not (head and model):
            return None
        try:
            parameters = model.task.Parameters()
        except ValidationError:
            # A client must state some.
            return None
        if self._looking is None:
            self._look_again()
        return Exchange(head, model, parameters, self._services, on_answer), end

    def ends_after(self, exchange: Exchange, connection: Connection) -> bool:
        """Whether a connection ends with this answer."""
        return not exchange.head.keep_alive or self._services.traffic.sees_off(connection)

    def log(self, exchange: Exchange, peer: str, size: int) -> None:
        """Write a line of the access log."""
        if self._access_log is None:
            return
        head = exchange.head
        self._access_log.write(
            Entry(
                peer or head.forwarded_for, "POST", head.path, exchange.status, size,
                exchange.seconds, exchange.request_id, exchange.code, exchange.model,
                exchange.answer,
            )
        )  # fmt: skip

    # The parts of it.

    def _find(self, head: Head) -> ModelVersion | None:
        try:
            model = self._repository.find(head.name, head.version)
            model.check_ready()
        except RequestError:
            return None
        if head.version is None and self._repository.trial(model) is not None:
            return None
        task = model.task
        # An input that is a file may be named by its address, which has to be fetched.
        is_small = head.size <= self._most_bytes and head.size < task.inline_bytes
        return model if is_small and not task.media_types else None

    async def _finish(self, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + within_s
        while self._busy() and loop.time() < give_up_s:  # noqa: ASYNC110 - each ends by itself
            await asyncio.sleep(LOOK_S)
        for connection in list(self.connections):
            connection.abort()

    def _busy(self) -> list[Exchange]:
        return [found for connection in self.connections if (found := connection.exchange)]

    def _look(self) -> None:
        """Answer those whose time is over: one timer for all costs less than one for each."""
        busy = self._busy()
        self._looking = None
        if busy:
            self._look_again()
        for exchange in busy:
            if exchange.deadline_s <= exchange.model.batcher.clock():
                exchange.expire()

    def _look_again(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
