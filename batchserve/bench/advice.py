"""What to make of figures that are not what they seem: pure."""

from collections.abc import Iterator, Sequence

from batchserve.bench.figures import Figures
from batchserve.bench.pool import LIMIT_OF_FILES, TIMED_OUT

# Sent so late, and so much of the latency, that it is the generator's own.
LATE_S, LATE_SHARE = 0.005, 0.1
# Of a core: beyond, the process that sends is the limit.
BUSY = 0.9
ADVICE = {
    "503 queue_full": "the queue was full: offer less, or give the model more (max_queue_size "
    "only has more of them wait)",
    "503 overloaded": "refused on arrival, because the answer would have come too late for slo_ms "
    "or the request's timeout: what is above capacity is meant to be refused",
    "503 draining": "the server was being stopped",
    "503 model_not_ready": "the model was not ready: wait for /readyz",
    "504 deadline_exceeded": "accepted, but not answered by the request's deadline: the server "
    "was slower than it had expected",
    "500 model_failed": "the model failed on the input: the server's log has the traceback",
    TIMED_OUT: "given up after the timeout; without an answer, they are in no percentile",
    "connection refused": "nobody listened: is the server still running, its backlog large enough?",
    "connection reset": "the server closed connections with requests on them: did a worker die?",
    "connection closed": "the server closed connections with requests on them: did a worker die, "
    "or is its keep-alive short?",
    LIMIT_OF_FILES: "this process may not open more: lower --connections, or raise ulimit -n",
}


def advice_on(all_figures: Sequence[Figures]) -> Iterator[str]:
    """Yield a line for each thing that is off."""
    for figures in all_figures:
        if figures.busy > BUSY:
            yield (
                f"{figures.name}: the generator could not keep up (its process used "
                f"{figures.busy:.0%} of a core): the figures are its own limit; try --processes"
            )
        elif is_late(figures):
            yield (
                f"{figures.name}: requests were sent {1000 * figures.lag_p99_s:.1f} ms late at the "
                f"99th percentile, which is in their latency: something else kept this machine "
                f"busy; give the generator a core of its own, or another machine"
            )
        if figures.waited:
            yield (
                f"{figures.name}: {figures.waited} requests waited for a free connection, which is "
                f"in their latency; raise --connections if the server shall see them"
            )
    for name in dict.fromkeys(name for figures in all_figures for name in figures.failures):
        yield f"{name}: {explain(name)}"


def is_late(figures: Figures) -> bool:
    """Whether an open loop was none."""
    late = figures.lag_p99_s > max(LATE_S, LATE_SHARE * figures.p50_s)
    return bool(figures.rate) and late


def explain(outcome: str) -> str:
    """Return what an outcome means, and what to do."""
    known = ADVICE.get(outcome)
    if known is not None:
        return known
    if outcome.startswith("429"):
        return "the server, or what is before it, lets nobody send so much"
    if outcome.startswith("5"):
        return "the server failed: its log may say why"
    return "see the server's log"
