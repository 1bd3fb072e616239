"""The worker's sockets: aiohttp's runner, which can leave in steps."""

import asyncio
import signal
import socket
import ssl
from contextlib import ExitStack
from typing import Any, cast

from aiohttp import web

from batchserve.crew import Crew
from batchserve.web.access_log import AccessLog
from batchserve.web.balance import Surplus, choose
from batchserve.web.fast_path.server import FastPath
from batchserve.web.handshakes import no_newcomers
from batchserve.web.keys import CONFIG, FAST_PATH, REPOSITORY, TRAFFIC
from batchserve.web.listener import Listener, somebody_waits

# How often to look whether the worker has begun to listen.
LOOK_S = 0.05
# What a connection that has begun takes to be one: a round trip.
HANDSHAKE_S = 0.05
# Enough for the connections of a full backlog, if not for those that never cease to come.
TURNS_TO_ACCEPT = 5000
# As many connections as a worker that leaves says that it has, so that it gets no more.
MANY = 2**30
# To aiohttp, no time at all is any time.
SHORTEST_S = 0.1
# What is left of the process so long after its requests is stuck.
STUCK_S = 5.0


class Door(web.AppRunner):
    """What a Gunicorn worker runs; a `batchserve.leaving.Door`.

    Args:
        app: what is served.
        access_log: None: there is none.
        crew: on whose sockets to listen, in turn with the others; None: on those of aiohttp's
            sites.
        options: as for aiohttp's.
    """

    def __init__(
        self,
        app: web.Application,
        access_log: AccessLog | None = None,
        crew: Crew | None = None,
        **options: Any,
    ) -> None:
        if access_log is not None:
            options["access_log_class"] = AccessLog
            options["access_log_format"] = access_log.log_format
        logger = access_log and access_log.logger
        super().__init__(app, access_log=logger, **options)
        self._entries = access_log
        self._crew = crew
        self._surplus = Surplus(crew) if crew is not None and crew.sockets else None
        self._listeners: list[Listener] = []
        self._closed = False

    async def setup(self) -> None:
        """Make the server, and begin to listen."""
        await super().setup()
        if self._crew is not None:
            tls = self._crew.make_tls and self._crew.make_tls()
            for sock in self._crew.sockets:
                site = SharedSite(self, sock, tls, self._crew)
                await site.start()
                self._listeners.append(site.listener)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        services = self.app.get(FAST_PATH)
        if services is None:
            return server
        config, repository = self.app[CONFIG].server, self.app[REPOSITORY]
        return cast("web.Server", FastPath(server, config, repository, services, self._entries))

    def count(self) -> int:
        """Return how many connections there are, in the eyes of the other workers."""
        if self.app[TRAFFIC].dismissing:
            return MANY
        return len(self._connections()) + sum(len(found.opening) for found in self._listeners)

    def spread(self) -> None:
        """Mark connections that are to end with their next answer, so that other workers get them.

        Called from time to time.
        """
        traffic, count = self.app[TRAFFIC], 0
        if self._surplus and self.sites and all(found.is_able for found in self._listeners):
            count = self._surplus.count(self.count())
        traffic.surplus = (
            set(choose(traffic.surplus, count, self._connections())) if count else set()
        )

    async def opened(self) -> None:
        """Return once connections are accepted, or were."""
        while not (self.addresses or self._closed):  # noqa: ASYNC110 - aiohttp does not tell
            await asyncio.sleep(LOOK_S)

    async def close(self, *, for_good: bool) -> None:
        """Stop listening, if possible while nobody waits: the last to close resets who does.

        Args:
            for_good: nobody else goes on listening.
        """
        with ExitStack() as stack:
            if for_good:
                for sock in self._sockets():
                    stack.enter_context(no_newcomers(sock.fileno()))
                await asyncio.sleep(HANDSHAKE_S)
            for listener in self._listeners:
                listener.accept_all()
            for _ in range(TURNS_TO_ACCEPT):
                if not somebody_waits(*self._sockets()):
                    break
                await asyncio.sleep(0)
            for site in self.sites:
                await site.stop()
        self._closed = True

    async def cleanup(self) -> None:
        """End whatever is left, as aiohttp's runner does."""
        await super().cleanup()
        for listener in self._listeners:
            listener.abandon()

    def leave(self, within_s: float) -> None:
        """Let aiohttp's worker finish, as on SIGQUIT.

        Args:
            within_s: how long it may wait for requests, and then again for their cancellation.
        """
        if self.server is not None:
            # Before the loop turns: nothing more begins that would be answered with 503.
            self.server.pre_shutdown()
        self._shutdown_timeout = max(SHORTEST_S, within_s)
        # The kernel ends even a process that waits for a thread in native code.
        signal.setitimer(signal.ITIMER_REAL, 2 * self._shutdown_timeout + STUCK_S)
        signal.raise_signal(signal.SIGQUIT)

    def _connections(self) -> list[asyncio.Protocol]:
        server: Any = self.server
        return server.all_connections() if isinstance(server, FastPath) else server.connections

    def _sockets(self) -> list[socket.socket]:
        servers = [cast("asyncio.Server", site._server) for site in self.sites]  # noqa: SLF001 - as `addresses` does
        return [sock for server in servers for sock in server.sockets]


class SharedSite(web.SockSite):
    """aiohttp's site, for a socket that workers share.

    Args:
        door: whose server connections are for.
        sock: which listens.
        tls: None: connections have none.
        crew: the workers.
    """

    def __init__(
        self, door: Door, sock: socket.socket, tls: ssl.SSLContext | None, crew: Crew
    ) -> None:
        super().__init__(door, sock, ssl_context=tls)
        self._crew = crew
        self._count = door.count

    async def start(self) -> None:
        """Listen; nobody is accepted before the loop turns."""
        await web.BaseSite.start(self)
        server = cast("web.Server", self._runner.server)
        self.listener = Listener(self._sock, server, self._ssl_context, self._crew, self._count)
        self._server = cast("asyncio.Server", self.listener)

    async def stop(self) -> None:
        """Listen no more, and tell the other workers."""
        await super().stop()
        self._crew.close()
