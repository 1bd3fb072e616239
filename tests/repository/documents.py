"""Documents and reports, as short as a test can say them."""

from batchserve.repository import State
from batchserve.repository.reports import Report, VersionReport
from batchserve.repository.wanted import Base, Wanted, plan

BASE: Base = dict.fromkeys(["m:1", "m:2", "n:1"])


def report(
    *versions: str,
    pid: int = 1,
    generation: int = 0,
    serving: bool = True,
    server: str = "s",
    **current: str,
) -> Report:
    """Return a report; a version is written `m:1@0=ready`, with its serial and its state."""
    held = []
    for version in versions:
        key, _, rest = version.partition("@")
        serial, _, state = rest.partition("=")
        error = "no such luck" if state == "failed" else None
        held.append(VersionReport(key=key, serial=int(serial), state=State(state), error=error))
    return Report(
        server=server,
        host="h",
        pid=pid,
        generation=generation,
        serving=serving,
        revision=0,
        versions=tuple(held),
        current=current,
    )


def targets(wanted: Wanted, base: Base = BASE) -> list[str]:
    """Return what is planned, as in `m:1@0`, with a ? where it is not settled."""
    return [
        f"{target.key}@{target.serial}{'' if target.settled else '?'}"
        for target in plan(base, wanted).targets
    ]
