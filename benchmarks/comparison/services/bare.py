"""An aiohttp handler that parses the JSON and has the answer at hand: no model, no batch."""

import os
from pathlib import Path

import orjson
from aiohttp import web

ANSWER = "BENCH_ANSWER"
MEBIBYTE = 1024 * 1024


async def create_app() -> web.Application:
    answer = Path(os.environ[ANSWER]).read_bytes()  # noqa: ASYNC240 - before it serves

    async def predict(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=answer, content_type="application/json")

    app = web.Application(client_max_size=16 * MEBIBYTE)
    app.router.add_post("/predict", predict)
    return app
