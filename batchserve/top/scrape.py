"""Fetch a server's metrics, and read them."""

import http.client
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0
# Where several servers are watched, of these the largest counts; all else adds up.
LARGEST = frozenset({"batchserve_backlog_seconds", "batchserve_slo_seconds"})

Labels = tuple[tuple[str, str], ...]


class Unreachable(Exception):
    """A server does not answer with its metrics; the message says which and why."""


@dataclass(frozen=True)
class Snapshot:
    """All series at one moment.

    Attributes:
        taken_s: on the monotonic clock.
        series: by name and sorted labels.
    """

    taken_s: float
    series: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def value(self, name: str, **labels: str) -> float:
        """Return one series, 0 if there is none."""
        return self.series.get((name, tuple(sorted(labels.items()))), 0.0)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def scrape(addresses: Iterable[str]) -> Snapshot:
    """Return the metrics of all these servers together.

    Args:
        addresses: each `http://HOST:PORT`, `https://…`, `HOST:PORT` or `unix:PATH`.

    Raises:
        Unreachable: one of them does not answer.
    """
    taken_s = time.monotonic()
    return merge([read(fetch(address), taken_s) for address in addresses])


def fetch(address: str) -> str:
    """Return the text of a server's `/metrics`.

    Raises:
        Unreachable: it does not answer with them.
    """
    connection, path = _connection(address)
    try:
        connection.request("GET", f"{path}/metrics")
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise Unreachable(f"{address} does not answer: {error}") from None
    finally:
        connection.close()
    if response.status != http.client.OK or "batchserve_" not in text:
        raise Unreachable(f"{address}{path}/metrics is not batchserve's (status {response.status})")
    return text


def read(text: str, taken_s: float) -> Snapshot:
    """Return what a text in Prometheus's format says."""
    return Snapshot(
        taken_s,
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        },
    )


def merge(snapshots: list[Snapshot]) -> Snapshot:
    """Return several servers' series as those of one."""
    series: dict[tuple[str, Labels], float] = {}
    for snapshot in snapshots:
        for key, value in snapshot.series.items():
            other = series.get(key, 0.0)
            series[key] = max(other, value) if key[0] in LARGEST else other + value
    return Snapshot(snapshots[0].taken_s, series)


def _connection(address: str) -> tuple[http.client.HTTPConnection, str]:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), TIMEOUT_S), ""
    url = urlsplit(address if "://" in address else f"http://{address}")
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    try:
        return kind(url.hostname or "", url.port, timeout=TIMEOUT_S), url.path.rstrip("/")
    except (ValueError, http.client.InvalidURL) as error:
        raise Unreachable(f"{address} is no address: {error}") from None
