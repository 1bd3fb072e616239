"""Sends requests and tells what became of them, as one line of JSON; overload.py starts it.

    python benchmarks/open_loop.py URL BODY CONTENT_TYPE --rate 100 --seconds 10 --slo-ms 200
    python benchmarks/open_loop.py URL BODY CONTENT_TYPE --clients 32 --seconds 5

With a rate, clients come at random (Poisson), whatever becomes of those before, and latency counts
from the moment at which a request was meant to be sent: neither a slow server nor a generator that
falls behind can hide anything. With clients, each sends its next request when it was answered.
"""

import argparse
import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
import uvloop

TIMEOUT_S = 60
OK = 200


@dataclass
class Tally:
    """What became of requests. Seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # of the accepted
    batch_sizes: list[int] = field(default_factory=list)
    refused_with_advice: int = 0
    lags: list[float] = field(default_factory=list)  # how late requests were sent

    def summary(self, seconds: float, slo_s: float) -> dict[str, Any]:
        in_time = sum(latency <= slo_s for latency in self.latencies)
        return {
            "offered": sum(self.statuses.values()) / seconds,
            "accepted": len(self.latencies) / seconds,
            "goodput": in_time / seconds,
            "p50_ms": 1000 * percentile(self.latencies, 50),
            "p99_ms": 1000 * percentile(self.latencies, 99),
            "batch_size": statistics.fmean(self.batch_sizes) if self.batch_sizes else 0.0,
            "answers": len(self.latencies),
            "refusals": sum(self.statuses.values()) - len(self.latencies),
            "refused_with_advice": self.refused_with_advice,
            "statuses": dict(self.statuses),
            "lag_p99_ms": 1000 * percentile(self.lags, 99),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0


class Client:
    """Posts one body, and counts what comes back."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
    ) -> None:
        self._session = session
        self._url = url
        self._body = body
        self._headers = headers
        self.tally = Tally()

    async def post(self, meant_s: float) -> None:
        self.tally.lags.append(perf_counter() - meant_s)
        try:
            async with self._session.post(
                self._url, data=self._body, headers=self._headers
            ) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.tally.statuses[type(error).__name__] += 1
            return
        self.tally.statuses[str(response.status)] += 1
        if response.status == OK:
            self.tally.latencies.append(perf_counter() - meant_s)
            self.tally.batch_sizes.append(int(response.headers["X-Batch-Size"]))
        elif "Retry-After" in response.headers:
            self.tally.refused_with_advice += 1


async def open_loop(client: Client, rate: float, seconds: float, seed: int) -> None:
    """Send at random moments, `rate` in a second on average."""
    rng = np.random.default_rng(seed)
    moments = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))).tolist()
    start_s = perf_counter()
    async with asyncio.TaskGroup() as group:
        for moment in moments:
            early_s = start_s + moment - perf_counter()
            if early_s > 0:
                await asyncio.sleep(early_s)
            group.create_task(client.post(start_s + moment))


async def closed_loop(client: Client, clients: int, seconds: float) -> None:
    """Have so many clients send one request after the other."""
    end_s = perf_counter() + seconds

    async def keep_sending() -> None:
        while (now_s := perf_counter()) < end_s:
            await client.post(now_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(keep_sending())


async def run(options: argparse.Namespace) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        body = await asyncio.to_thread(Path(options.body).read_bytes)
        headers = {"Content-Type": options.content_type}
        if options.timeout_ms:
            headers["X-Request-Timeout-Ms"] = str(options.timeout_ms)
        client = Client(session, options.url, body, headers)
        if options.clients:
            await closed_loop(client, options.clients, options.seconds)
        else:
            await open_loop(client, options.rate, options.seconds, options.seed)
    return client.tally.summary(options.seconds, options.slo_ms / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("body", help="a file")
    parser.add_argument("content_type")
    parser.add_argument("--rate", type=float, default=0.0, help="requests in a second")
    parser.add_argument("--clients", type=int, default=0, help="that wait for their answers")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slo-ms", type=float, default=1000.0, help="what an answer is worth")
    parser.add_argument("--timeout-ms", type=float, help="what requests ask for")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(run(options))))


if __name__ == "__main__":
    main()
