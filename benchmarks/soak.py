"""Hours of bad luck in minutes: every kind of request at 1.5 × capacity, while workers are killed.

    python benchmarks/soak.py [--minutes 3] [--load 1.5] [--kill-every 5] [--hup-every 0] [--seed 0]

First without kills, which shows whether memory grows; then a worker is killed (SIGKILL) every few
seconds. Every input is unique, and its answer tells which it belongs to. Only requests on the
connections of a killed worker may go unanswered: it is stopped first, and they are noted.

Exits with 1 if a request was lost or answered wrongly, if anything is left in the queue in the end,
or if memory grew by 1 %. That is judged once each worker has all the batches in memory that it
keeps for `/debug/batches`, which takes some five minutes: with `--minutes 16` or more.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import uvloop
from bench_models import Witness
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from serving import Server, serving
from soak_client import Client, Mix, Tally

from batchserve.trace import MOST_BATCHES

WORKERS, BATCH = 2, 8
ITEMS_PER_REQUEST = 1.3  # of the mix
CAPACITY = WORKERS * BATCH / (Witness.FIXED_S + BATCH * Witness.PER_ITEM_S) / ITEMS_PER_REQUEST
CONFIG: dict[str, Any] = {
    "server": {
        "workers": WORKERS,
        "accesslog": None,
        "max_body_mb": 0.25,
        "default_timeout_ms": 5000,
    },
    "models": [
        {
            "name": "witness",
            "source": "bench_models:Witness",
            "device": "cpu",
            "input_shape": [2],
            "slo_ms": 800,
            "batching": {"max_batch_size": BATCH},
        }
    ],
}
STEADY_SHARE = 0.4  # of the time there are no kills
SAMPLE_S = 2.0
HEARD_S = 2.0  # a worker that was heard of so lately is serving
# When the batches that are kept for `/debug/batches` are as many as there ever will be.
FULL_S = 1.1 * MOST_BATCHES * (Witness.FIXED_S + BATCH * Witness.PER_ITEM_S)
# Memory is judged over at least so long after that, by the mean of a third of the samples each.
JUDGED_S, GROWTH = 60.0, 0.01

console = Console(soft_wrap=True, highlight=False)


@dataclass
class Soak:
    """A run: the server, what was sent, and what was done to the server."""

    server: Server
    client: Client
    tally: Tally
    kills: int = 0
    reloads: int = 0
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # s, MB by pid

    async def kill_worker(self) -> None:
        """Kill a worker if there is another one that serves."""
        now_s = time.monotonic()
        serving = [pid for pid, seen_s in self.tally.seen.items() if now_s - seen_s < HEARD_S]
        if len(serving) < WORKERS:
            return
        victim = psutil.Process(min(serving))
        del self.tally.seen[victim.pid]
        victim.suspend()
        connections = await asyncio.to_thread(victim.net_connections, kind="tcp")
        killed_s = time.monotonic()
        self.tally.victims |= {found.raddr.port: killed_s for found in connections if found.raddr}
        victim.kill()
        self.kills += 1

    async def reload(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)
        self.reloads += 1

    async def sample_memory(self) -> None:
        at_s = time.monotonic()
        for process in [psutil.Process(self.server.process.pid), *self.server.workers()]:
            # Killed meanwhile, perhaps.
            with suppress(psutil.Error):
                used = await asyncio.to_thread(process.memory_full_info)
                # What is shared with others changes as they come and go. One just killed has none.
                if used.uss:
                    self.memory.setdefault(process.pid, []).append((at_s, used.uss / 2**20))

    async def left_over(self) -> float:
        """Return what the gauges say of items in the queue or in a pass, once all is answered."""
        # They are sampled twice a second.
        await asyncio.sleep(2)
        text = await asyncio.to_thread(self.server.get, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in ("batchserve_queue_items", "batchserve_in_flight_items")
        )


async def send_traffic(soak: Soak, mix: Mix, rate: float, until_s: float) -> None:
    """Send at a steady rate, whatever becomes of it."""
    next_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while next_s < until_s:
            next_s += 1 / rate
            early_s = next_s - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            group.create_task(soak.client.send(mix.next()))


async def every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await act()


async def run(options: argparse.Namespace, server: Server, progress: Progress) -> Soak:
    host, _, port = server.base.removeprefix("http://").rpartition(":")
    tally = Tally()
    soak = Soak(server, Client(host, int(port), tally), tally)
    seconds = 60 * options.minutes
    mix, rate = Mix(options.seed), options.load * CAPACITY
    watching = asyncio.create_task(every(SAMPLE_S, soak.sample_memory))
    steady_s = STEADY_SHARE * seconds
    await phase(soak, mix, rate, steady_s, progress, "without kills")
    troubles = [asyncio.create_task(every(options.kill_every, soak.kill_worker))]
    if options.hup_every:
        troubles.append(asyncio.create_task(every(options.hup_every, soak.reload)))
    await phase(soak, mix, rate, seconds - steady_s, progress, "killing workers")
    for task in [watching, *troubles]:
        task.cancel()
    await asyncio.wait([watching, *troubles])
    failed = [task.exception() for task in [watching, *troubles] if not task.cancelled()]
    if failed:
        raise RuntimeError("the soak itself failed") from failed[0]
    return soak


async def phase(
    soak: Soak, mix: Mix, rate: float, seconds: float, progress: Progress, name: str
) -> None:
    bar = progress.add_task(name, total=seconds)

    async def advance() -> None:
        found = soak.tally
        text = f"{name}: lost {len(found.lost)}, wrong {len(found.wrong)}, kills {soak.kills}"
        progress.update(bar, advance=0.5, description=text)

    moving = asyncio.create_task(every(0.5, advance))
    await send_traffic(soak, mix, rate, time.monotonic() + seconds)
    moving.cancel()
    progress.update(bar, completed=seconds)


def report(soak: Soak, steady_s: float, left_over: float) -> bool:
    """Print what happened; return whether all is well."""
    tally = soak.tally
    console.print(answers(tally))
    growth = [
        grown
        for pid, samples in soak.memory.items()
        if (grown := describe_memory(pid, samples, steady_s, soak)) is not None
    ]
    if steady_s < FULL_S + JUDGED_S:
        minutes = ceil((FULL_S + JUDGED_S) / STEADY_SHARE / 60)
        console.print(f"memory is not judged: that takes --minutes {minutes}")
    console.print(f"workers killed {soak.kills}, reloads {soak.reloads}")
    console.print(f"requests cut off with a killed worker: {tally.cut}")
    console.print(f"left in the queues in the end: {left_over:g}")
    for name, found in (("lost", tally.lost), ("wrong", tally.wrong)):
        console.print(f"{name}: {len(found)}", style="red" if found else "green")
        for line in found[:10]:
            console.print(f"    {line}")
    grew = max(growth, default=0.0) >= GROWTH
    if grew:
        console.print(f"memory grew by {GROWTH:.0%} or more", style="red")
    return not (tally.lost or tally.wrong or left_over or grew)


def answers(tally: Tally) -> Table:
    statuses = sorted({status for _, status in tally.statuses})
    shown = Table("kind", "sent", *map(str, statuses), title="requests", title_justify="left")
    for kind, sent in sorted(tally.sent.items()):
        counts = [tally.statuses.get((kind, status), 0) for status in statuses]
        shown.add_row(kind, str(sent), *(str(number or "") for number in counts))
    return shown


def describe_memory(
    pid: int, samples: list[tuple[float, float]], steady_s: float, soak: Soak
) -> float | None:
    """Print a process's memory; return its growth without kills, if that can be told."""
    name = "master" if pid == soak.server.process.pid else "worker"
    first_s = min(found[0][0] for found in soak.memory.values())
    megabytes = [used for _, used in samples]
    steady = [used for at_s, used in samples if first_s + FULL_S <= at_s <= first_s + steady_s]
    third = len(steady) // 3
    if samples[0][0] > first_s or steady_s < FULL_S + JUDGED_S or not third:
        console.print(f"{name} {pid}: {megabytes[0]:.1f} to {megabytes[-1]:.1f} MB (USS)")
        return None
    before, after = sum(steady[:third]) / third, sum(steady[-third:]) / third
    console.print(
        f"{name} {pid}: {megabytes[0]:.1f} to {megabytes[-1]:.1f} MB (USS); once full, and "
        f"without kills, {before:.1f} to {after:.1f} MB, {after / before - 1:+.2%}"
    )
    return after / before - 1


async def soak_server(options: argparse.Namespace, folder: Path) -> bool:
    with serving(CONFIG, folder) as server, Progress(console=console) as progress:
        soak = await run(options, server, progress)
        left_over = await soak.left_over()
        progress.stop()
        return report(soak, STEADY_SHARE * 60 * options.minutes, left_over)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--load", type=float, default=1.5, help="times capacity")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds")
    parser.add_argument("--hup-every", type=float, default=0.0, help="seconds; 0: never")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        well = uvloop.run(soak_server(options, Path(folder)))
    sys.exit(not well)


if __name__ == "__main__":
    main()
