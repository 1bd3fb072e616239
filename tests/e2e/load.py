"""Clients that ask without end, and an account of what became of each request."""

import http.client
import json
import logging
import select
import threading
from collections import Counter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

# Of a client that thinks between its requests, and so has an idle connection.
THINKING_S = 0.3
# Of any client that was refused.
REFUSED_S = 0.05


class Load:
    """Asks a server that doubles numbers, from threads, while it is entered.

    A client is well-behaved: it keeps a connection unless it is told `Connection: close` or sees
    it closed before it asks again. A request that got no answer, or a wrong one, is lost; one that
    got no connection is refused.

    Args:
        base: of the server, as in `http://127.0.0.1:8000`.
        kept: clients that keep their connection and ask again at once.
        thinking: those that keep it and wait before they ask again.
        fresh: those that take a new connection for each request.
    """

    def __init__(self, base: str, kept: int = 4, thinking: int = 4, fresh: int = 4) -> None:
        address = urlsplit(base)
        self._address = (address.hostname or "", address.port)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(kind, number))
            for kind, count in (("kept", kept), ("thinking", thinking), ("fresh", fresh))
            for number in range(count)
        ]
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lost: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        logging.getLogger(__name__).info("%r", self)

    def __repr__(self) -> str:
        return f"<Load | {dict(self.answered)}, refused {dict(self.refused)}, lost {self.lost}>"

    def _ask_on(self, kind: str, number: int) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        while not self._stop.wait(THINKING_S if kind == "thinking" else 0):
            if kind == "fresh" or _is_dropped(connection):
                connection.close()
            number += 100
            state = "kept" if connection.sock else "new"
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                self.refused[kind] += 1
                self._stop.wait(REFUSED_S)
                continue
            try:
                answer = _ask(connection, number)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{kind} client, {state} connection: {error!r}")
                connection.close()
                continue
            if answer == f"200 {[2.0 * number]}":
                self.answered[kind] += 1
            else:
                self.lost.append(f"{kind} client, {state} connection: {answer}")
        connection.close()


def _ask(connection: http.client.HTTPConnection, number: int) -> str:
    connection.request(
        "POST", "/predict", json.dumps({"input": [number]}), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    body = json.loads(response.read())
    return f"{response.status} {body.get('output', body)}"


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    # The server has nothing to say to an idle client: what can be read is the end.
    sock = connection.sock
    return sock is not None and bool(select.select([sock], [], [], 0)[0])
