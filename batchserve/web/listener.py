"""A listening socket that workers share: whoever has the fewest connections takes the next."""

import asyncio
import logging
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Any

from batchserve.crew import Crew
from batchserve.web.balance import Turn

# How long to leave a connection to those with fewer; the loop's timers are no finer.
PAUSE_S = 0.001
# How long to wait for file descriptors or memory, as asyncio does.
RETRY_S = 1.0

# Where Linux tells it of a socket that listens: tcpi_unacked (linux/tcp.h, tcp_get_info).
WAITING_AT, WAITING = 24, struct.Struct("I")

logger = logging.getLogger(__name__)


class Listener:
    """Accepts connections, in turn with the other workers; stands for an asyncio.Server.

    Args:
        sock: which listens, and does not block.
        make_protocol: what a connection is for.
        tls: None: connections have none.
        crew: all the workers.
        count: returns how many connections this worker has, with those that are being opened.

    Attributes:
        sockets: the one that listens; none once it is closed.
        opening: the connections that are accepted, and not yet there.
        is_able: there are file descriptors and memory for another connection.
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
        self.opening: set[asyncio.Task[Any]] = set()
        self.is_able = True
        self._crew = crew
        self._sock = sock
        self._make_protocol = make_protocol
        self._tls = tls
        self._turn: Turn | None = Turn(crew)
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        crew.look(0)
        self._loop.add_reader(sock, self._look)

    def close(self) -> None:
        """Stop listening; what was accepted stays."""
        if self.sockets:
            self.sockets = ()
            self._stop_looking()
            self._sock.close()

    def abandon(self) -> None:
        """Let go of connections that are still being opened."""
        for task in self.opening:
            task.cancel()

    def accept_all(self) -> None:
        """From now on, leave nothing to others."""
        self._turn = None
        if self._timer is not None:
            self._look_again()

    def _look(self) -> None:
        connections, waiting = self._count(), count_waiting(self._sock)
        share = self._turn.share(connections, waiting, self._loop.time()) if self._turn else waiting
        if not share:
            self._pause(PAUSE_S)
            return
        self.is_able = True
        count = 0
        while count < share and self._accept():
            count += 1
        if self._turn and self.is_able:
            self._turn.has_accepted(count, connections + count, self._loop.time())

    def _accept(self) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another worker was faster, or the client has gone.
            return False
        except OSError as error:
            logger.error("no connection can be accepted: %s; again in %d s", error, RETRY_S)  # noqa: TRY400
            self.is_able = False
            self._crew.close()
            self._pause(RETRY_S)
            return False
        sock.setblocking(False)
        opening = self._loop.connect_accepted_socket(self._make_protocol, sock, ssl=self._tls)
        task = self._loop.create_task(opening)
        self.opening.add(task)
        task.add_done_callback(self._opened)
        return True

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self.opening.discard(task)
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


def count_waiting(listening: socket.socket) -> int:
    """Return how many connections wait to be accepted, if the system tells, and 1 otherwise."""
    if listening.family == socket.AF_UNIX or not sys.platform.startswith("linux"):
        return 1
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, WAITING_AT + WAITING.size)
    (waiting,) = WAITING.unpack_from(info, WAITING_AT)
    return max(1, int(waiting))


def somebody_waits(*listening: socket.socket) -> bool:
    """Return whether a connection is there to be accepted, at any of these."""
    poll = select.poll()
    for sock in listening:
        poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
