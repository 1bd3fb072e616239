"""How many cores this process may use."""

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """Return the cores that are assigned to this process, or the fewer that its container gets."""
    # macOS knows no affinity.
    assigned = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return math.ceil(min(assigned, LIMIT))


def limit_of_container(cgroups: Path) -> float:
    """Return how many cores' time the container gets; infinity: as much as there is.

    Args:
        cgroups: where the kernel shows it, in version 2 (cpu.max:
            https://docs.kernel.org/admin-guide/cgroup-v2.html) or 1 (cpu.cfs_quota_us).
    """
    try:
        stated, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        stated, period = _of_version_1(cgroups)
    try:
        quota = int(stated) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return quota if quota > 0 else math.inf


def _of_version_1(cgroups: Path) -> tuple[str, str]:
    try:
        stated = (cgroups / "cpu/cpu.cfs_quota_us").read_text()
        return stated, (cgroups / "cpu/cpu.cfs_period_us").read_text()
    except OSError:
        return "max", "0"


# Read once, before any event loop runs that it would block.
LIMIT = limit_of_container(Path("/sys/fs/cgroup"))
