"""How many cores this process may use."""

import math
import os
from pathlib import Path

# Where a container's limit is: https://docs.kernel.org/admin-guide/cgroup-v2.html, and version 1.
CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Return the cores that are assigned to this process, or the fewer that its container pays for.

    Args:
        cgroups: where the kernel shows the limits.
    """
    # macOS knows no affinity.
    assigned = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return math.ceil(min(assigned, _quota(cgroups)))


def _quota(cgroups: Path) -> float:
    """Return how many cores' time the container gets; infinity: as much as there is."""
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
