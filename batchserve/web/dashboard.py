"""What /dashboard shows: the last ten minutes of all workers, recorded and handed out."""

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

from batchserve.errors import BadRequest
from batchserve.history_log import MOST_POINTS, HistoryLog
from batchserve.metrics import MULTIPROC_DIR
from batchserve.recorder import EVERY_S, Recorder
from batchserve.web.keys import HISTORY, METRICS

logger = logging.getLogger(__name__)

SINCE = "since"
KEEPS_S = MOST_POINTS * EVERY_S
# After it has failed, once and again.
RETRY_S, LATER_S = 2.0, 10.0


async def history(app: web.Application) -> AsyncIterator[None]:
    """Record while the application lives, in the workers' shared folder or one of its own."""
    shared = os.environ.get(MULTIPROC_DIR)
    own = None if shared else await asyncio.to_thread(TemporaryDirectory)
    log = app[HISTORY] = HistoryLog(Path(own.name if own else shared or ""))
    stop = asyncio.Event()
    recording = asyncio.create_task(_record(Recorder(app[METRICS], log), stop), name="history")
    yield
    stop.set()
    await recording
    await asyncio.to_thread(log.close)
    if own is not None:
        await asyncio.to_thread(own.cleanup)


async def show_history(request: web.Request) -> web.Response:
    """Answer with the points of the last ten minutes; `?since=` with those after a time only."""
    since_s = max(_since(request), time.time() - KEEPS_S)
    points = await asyncio.to_thread(request.app[HISTORY].since, since_s)
    head = f'{{"every_s":{EVERY_S:g},"keeps_s":{KEEPS_S:g},"points":['
    body = head.encode() + b",\n".join(points) + b"]}"
    return web.Response(
        body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


async def _record(recorder: Recorder, stop: asyncio.Event) -> None:
    has_failed = False
    while not stop.is_set():
        try:
            seconds = await asyncio.to_thread(recorder.record)
            has_failed = False
        # Whatever it is, it is not worth the history.
        except Exception as error:  # noqa: BLE001
            seconds = RETRY_S
            # Once says little: a file of the metrics, say, is empty while a worker is making it.
            if has_failed:
                logger.warning(
                    "the history for /dashboard cannot be written: %s: %s",
                    type(error).__name__,
                    error,
                )
                seconds = LATER_S
            has_failed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


def _since(request: web.Request) -> float:
    unknown = [name for name in request.query if name != SINCE]
    if unknown:
        raise BadRequest(f"query parameter {unknown[0]}: unknown; known are: {SINCE}")
    stated = request.query.get(SINCE, "0")
    try:
        since_s = float(stated)
    except ValueError:
        since_s = math.nan
    if not math.isfinite(since_s):
        raise BadRequest(
            f"query parameter {SINCE}: {stated!r} is not a time; write seconds since 1970, "
            f"such as the last point's `at`"
        )
    return since_s
