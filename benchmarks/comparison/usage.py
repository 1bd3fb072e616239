"""What a server takes: CPU time by process, memory of all its processes together."""

from contextlib import suppress
from dataclasses import dataclass

import psutil

from comparison.processes import family_of

# Who has left while it was looked at, and what the kernel does not tell.
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied, OSError)
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of one process so far: its main thread, and its other threads."""

    name: str
    main_s: float
    others_s: float


@dataclass(frozen=True)
class Share:
    """CPU microseconds of one process for each request."""

    name: str
    main_us: float
    others_us: float


def cpu_by_process(pid: int) -> dict[int, Cpu]:
    """Return the CPU time that each process of a family has used."""
    found = {}
    for process in family_of(pid):
        with suppress(*GONE):
            found[process.pid] = _cpu(process)
    return found


def _cpu(process: psutil.Process) -> Cpu:
    used = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    main_s = used.pop(process.pid, 0.0)
    return Cpu(process.name(), main_s, sum(used.values()))


def shares(before: dict[int, Cpu], after: dict[int, Cpu], requests: int) -> list[Share]:
    """Return what each process used between two moments, the busiest first."""
    nothing = Cpu("", 0, 0)
    used = [
        Share(
            now.name,
            1e6 * (now.main_s - before.get(pid, nothing).main_s) / requests,
            1e6 * (now.others_s - before.get(pid, nothing).others_s) / requests,
        )
        for pid, now in after.items()
    ]
    busy = [share for share in used if share.main_us + share.others_us > 0]
    return sorted(busy, key=lambda share: -(share.main_us + share.others_us))


def memory_mb(pid: int) -> float:
    """Return the memory of a family as if nobody else used any of its files.

    The proportional set size would spread libtorch over all servers that happen to run. So memory
    without a file counts proportionally, and of each file what the process has that uses most.
    """
    anonymous = 0
    files: dict[str, int] = {}
    for process in family_of(pid):
        with suppress(*GONE):
            for region in process.memory_maps(grouped=True):
                if _is_file(region.path):
                    files[region.path] = max(files.get(region.path, 0), region.rss)
                else:
                    anonymous += region.pss
    return (anonymous + sum(files.values())) / MEBIBYTE


def _is_file(path: str) -> bool:
    return path.startswith("/") and not path.startswith(("/dev/", "/memfd:"))
