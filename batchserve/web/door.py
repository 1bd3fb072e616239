"""The worker's sockets: aiohttp's runner, which can leave in steps."""

import asyncio
import select
import signal
import socket
from contextlib import ExitStack
from typing import Any, cast

from aiohttp import web

from batchserve.web.access_log import AccessLog
from batchserve.web.fast_path.server import FastPath
from batchserve.web.handshakes import no_newcomers
from batchserve.web.keys import CONFIG, FAST_PATH, REPOSITORY

# How often to look whether the worker has begun to listen.
LOOK_S = 0.05
# What a connection that has begun takes to be one: a round trip.
HANDSHAKE_S = 0.05
# Enough for the connections of a full backlog, if not for those that never cease to come.
TURNS_TO_ACCEPT = 1000
# To aiohttp, no time at all is any time.
SHORTEST_S = 0.1
# What is left of the process so long after its requests is stuck.
STUCK_S = 5.0


class Door(web.AppRunner):
    """What a Gunicorn worker runs; a `batchserve.leaving.Door`.

    Args:
        app: what is served.
        access_log: None: there is none.
        options: as for aiohttp's.
    """

    def __init__(
        self, app: web.Application, access_log: AccessLog | None = None, **options: Any
    ) -> None:
        if access_log is not None:
            options["access_log_class"] = AccessLog
            options["access_log_format"] = access_log.log_format
        logger = access_log and access_log.logger
        super().__init__(app, access_log=logger, **options)
        self._entries = access_log
        self._closed = False

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        services = self.app.get(FAST_PATH)
        if services is None:
            return server
        config, repository = self.app[CONFIG].server, self.app[REPOSITORY]
        return cast("web.Server", FastPath(server, config, repository, services, self._entries))

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
                for sock in self._listeners():
                    stack.enter_context(no_newcomers(sock.fileno()))
                await asyncio.sleep(HANDSHAKE_S)
            for _ in range(TURNS_TO_ACCEPT):
                if not self._somebody_waits():
                    break
                await asyncio.sleep(0)
            for site in self.sites:
                await site.stop()
        self._closed = True

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

    def _somebody_waits(self) -> bool:
        poll = select.poll()
        for sock in self._listeners():
            poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _listeners(self) -> list[socket.socket]:
        servers = [cast("asyncio.Server", site._server) for site in self.sites]  # noqa: SLF001 - as `addresses` does
        return [sock for server in servers for sock in server.sockets]
