"""What was measured: visits, and under which circumstances, as one JSON file."""

import os
import platform
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import torch

from batchserve.memory import PRELOAD
from comparison.contestants import Visit
from comparison.environments import version_of
from comparison.servers import SERVERS
from comparison.usage import Share

FOLDER = Path(__file__).parents[1] / "results"
GIBIBYTE = 2**30


def _machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / GIBIBYTE:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "allocator": os.environ.get(PRELOAD) or "of the C library",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="minutes")


@dataclass
class Results:
    """One run of the comparison.

    Attributes:
        date: when it, or the workloads that were measured last, began, in UTC.
        rounds: how often everybody had a turn at each number of clients.
        seconds: how long a turn is, where it is not `LONGER`.
        machine: processor, cores, memory, versions.
        versions: of each server, as `package version`.
        settings: of each server, by workload.
        failures: why a server takes no part in a workload.
        visits: in the order in which they were made.
    """

    rounds: int
    seconds: float
    date: str = field(default_factory=_now)
    machine: dict[str, str] = field(default_factory=_machine)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)

    def without(self, workloads: Collection[str]) -> "Results":
        """Return what was measured of other workloads, to which these are to be added anew."""
        failures = {
            name: {one: why for one, why in reasons.items() if one not in workloads}
            for name, reasons in self.failures.items()
        }
        return replace(
            self,
            date=_now(),
            failures={name: reasons for name, reasons in failures.items() if reasons},
            visits=[visit for visit in self.visits if visit.workload not in workloads],
        )

    def took_part(self, name: str, workload: str, settings: dict[str, Any]) -> None:
        self.settings.setdefault(name, {})[workload] = settings
        if name in SERVERS and name not in self.versions:
            server = SERVERS[name]
            self.versions[name] = f"{server.package} {version_of(server.peer, server.package)}"

    def failed(self, name: str, workload: str, reason: str) -> None:
        self.failures.setdefault(name, {})[workload] = reason

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))


def read(path: Path) -> Results:
    found = orjson.loads(path.read_bytes())
    visits = [
        Visit(**{**visit, "cpu_us": [Share(**share) for share in visit["cpu_us"]]})
        for visit in found.pop("visits")
    ]
    return Results(**found, visits=visits)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    named = re.search(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return named[1] if named else platform.machine()
