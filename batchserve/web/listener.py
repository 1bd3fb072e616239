"""A listening socket that workers share: whoever has the fewest connections takes the next."""

import asyncio
import logging
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

from batchserve.crew import Crew
from batchserve.web.balance import Turn

# How long to leave a connection to those with fewer; the loop's timers are no finer.
PAUSE_S = 0.001
# How long to wait for file descriptors or memory, as asyncio does.
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class Listener:
    """Accepts connections, in turn with the other workers; stands for an asyncio.Server.

    Args:
        sock: which listens, and does not block.
        make_protocol: what a connection is for.
        tls: None: connections have none.
        crew: all the workers.
        count: returns how many connections this worker has.

    Attributes:
        sockets: the one that listens; none once it is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
        crew: Crew,
        count: Callable[[], int],
    ) -> None:
        self.sockets: tuple[socket.socket, ...] = (sock,)
        self._sock = sock
        self._make_protocol = make_protocol
        self._tls = tls
        self._turn: Turn | None = Turn(crew)
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._loop.add_reader(sock, self._look)

    def close(self) -> None:
        """Stop listening; what was accepted stays."""
        if self.sockets:
            self.sockets = ()
            self._stop_looking()
            self._sock.close()

    def accept_all(self) -> None:
        """From now on, leave nothing to others."""
        self._turn = None
        if self._timer is not None:
            self._look_again()

    def _look(self) -> None:
        connections = self._count() + len(self._opening)
        if self._turn is not None and not self._turn.has_come(connections, self._loop.time()):
            self._pause(PAUSE_S)
            return
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another worker was faster, or the client has gone.
            return
        except OSError as error:
            logger.error("no connection can be accepted: %s; again in %d s", error, RETRY_S)  # noqa: TRY400
            self._pause(RETRY_S)
            return
        sock.setblocking(False)
        opening = self._loop.connect_accepted_socket(self._make_protocol, sock, ssl=self._tls)
        task = self._loop.create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self._opening.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            # A client that has hung up, or that does not speak TLS.
            logger.debug("a connection could not be opened: %s", error)
        elif error is not None:
            logger.error("a connection could not be opened", exc_info=error)

    def _pause(self, seconds: float) -> None:
        self._stop_looking()
        self._timer = self._loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._stop_looking()
        if self._turn is not None and not somebody_waits(self._sock):
            self._turn.was_anothers()
        self._loop.add_reader(self._sock, self._look)

    def _stop_looking(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def somebody_waits(*listening: socket.socket) -> bool:
    """Return whether a connection is there to be accepted, at any of these."""
    poll = select.poll()
    for sock in listening:
        poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
