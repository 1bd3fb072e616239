"""What a request asks for beside its answer: by when, and before whom."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchserve.batch import Priority, Terms
from batchserve.errors import BadRequest

TIMEOUT = "X-Request-Timeout-Ms"
PRIORITY = "X-Priority"
# The part of a promise that is kept for what the server cannot see: the way here and back.
ON_THE_WAY = 0.1


@dataclass(frozen=True, slots=True)
class Stated:
    """What a client says of time and priority; None: nothing."""

    timeout_ms: float | None
    priority: Priority

    def terms(self, now_s: float, default_timeout_ms: float, slo_ms: float | None) -> Terms:
        """Return the terms of a request.

        A client who states a timeout is promised an answer within that; one who does not, within
        the model's `slo_ms`, and is still answered if that fails.

        Args:
            now_s: when it arrived.
            default_timeout_ms: the deadline of those who state none.
            slo_ms: the model's promise; None: there is none but the deadline.
        """
        timeout_ms = default_timeout_ms if self.timeout_ms is None else self.timeout_ms
        deadline_s = now_s + timeout_ms / 1000
        if slo_ms is None or self.timeout_ms is not None:
            return Terms(deadline_s, deadline_s, self.priority)
        return Terms(now_s + (1 - ON_THE_WAY) * slo_ms / 1000, deadline_s, self.priority)


def read_terms(
    headers: Mapping[str, str], now_s: float, default_timeout_ms: float, slo_ms: float | None
) -> Terms:
    """Return a request's terms, as its headers state them.

    Args:
        headers: of the request.
        now_s: when it arrived.
        default_timeout_ms: as for `Stated.terms`.
        slo_ms: likewise.

    Raises:
        BadRequest: a header that means nothing.
    """
    return stated_in(headers).terms(now_s, default_timeout_ms, slo_ms)


def stated_in(headers: Mapping[str, str]) -> Stated:
    """Return what a request's headers say of time and priority.

    Raises:
        BadRequest: a header that means nothing.
    """
    return Stated(_stated_timeout_ms(headers), _priority(headers))


def _stated_timeout_ms(headers: Mapping[str, str]) -> float | None:
    stated = headers.get(TIMEOUT)
    if stated is None:
        return None
    try:
        timeout_ms = float(stated)
    except ValueError:
        timeout_ms = math.nan
    if not (0 < timeout_ms < math.inf):
        raise BadRequest(f"{TIMEOUT}: {stated!r} is not a number of milliseconds above 0")
    return timeout_ms


def _priority(headers: Mapping[str, str]) -> Priority:
    stated = headers.get(PRIORITY)
    if stated is None:
        return Priority.NORMAL
    if stated.isdecimal() and len(stated) < 10:  # noqa: PLR2004 - of no use to anybody
        return priority_of(int(stated))
    try:
        return Priority[stated.strip().upper()]
    except KeyError:
        names = ", ".join(priority.name.lower() for priority in Priority)
        raise BadRequest(
            f"{PRIORITY}: {stated!r} is none of {names}, nor a number from 1 (first) to "
            f"{max(Priority)} (last)"
        ) from None


def priority_of(level: int) -> Priority:
    """Return the priority of a level as the Open Inference Protocol numbers them.

    0 is the default, 1 the highest; whatever is below our lowest is our lowest.
    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_schedule_policy.md
    """
    return Priority(min(level, max(Priority))) if level else Priority.NORMAL


def restated(terms: Terms, arrived_s: float, level: int, timeout_us: int) -> Terms:
    """Return the terms of a request whose body says more than its headers.

    Args:
        terms: those of the headers.
        arrived_s: when the request did.
        level: of priority, as for `priority_of`; 0: the body says nothing of it.
        timeout_us: since its arrival, a deadline and a promise; 0: likewise.
    """
    if level:
        terms = terms._replace(priority=priority_of(level))
    if timeout_us:
        by_s = arrived_s + timeout_us / 1e6
        terms = terms._replace(due_s=by_s, deadline_s=by_s)
    return terms
