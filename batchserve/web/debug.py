"""What an engineer looks at: the last batches, as a trace for Perfetto or chrome://tracing."""

import asyncio
import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from aiohttp import web

from batchserve.errors import BadRequest
from batchserve.trace import BatchRecord, chrome_events
from batchserve.web.keys import REPOSITORY, TRACE

LAST = "last"
COUNT_FORM = re.compile(r"[1-9][0-9]{0,8}")
MOST_ASKED = 999_999_999


async def show_batches(request: web.Request) -> web.Response:
    """Answer with the last batches of this worker; `?last=N` for fewer."""
    records = request.app[TRACE].last(_count(request))
    # Some of them may be of versions that are gone.
    served = (v.batcher.name for v in request.app[REPOSITORY].versions if v.loaded)
    tracks = list(dict.fromkeys([*served, *(record.track for record in records)]))
    # Thousands of batches take longer than the loop may.
    body = await asyncio.to_thread(_as_json, records, tracks)
    return web.Response(body=body, content_type="application/json")


def _count(request: web.Request) -> int | None:
    unknown = [name for name in request.query if name != LAST]
    if unknown:
        raise BadRequest(f"query parameter {unknown[0]}: unknown; known are: {LAST}")
    stated = request.query.get(LAST)
    if stated is None:
        return None
    if not COUNT_FORM.fullmatch(stated):
        raise BadRequest(f"query parameter {LAST}: {stated!r} is not a whole number above 0")
    return int(stated)


def _as_json(records: Sequence[BatchRecord], tracks: Iterable[str]) -> bytes:
    # Batch by batch, so that the loop gets its turns between them.
    parts = [orjson.dumps(events)[1:-1] for events in chrome_events(records, os.getpid(), tracks)]
    head = orjson.dumps({"displayTimeUnit": "ms", "otherData": _other_data()})
    return head[:-1] + b',"traceEvents":[' + b",\n".join(parts) + b"]}"


def _other_data() -> dict[str, Any]:
    return {"worker": os.getpid(), "unix_s_at_ts_0": round(time.time() - time.monotonic(), 6)}
