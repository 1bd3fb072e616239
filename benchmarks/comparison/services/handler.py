"""A forward pass per request, in an aiohttp handler."""

import orjson
from aiohttp import web

from comparison.workloads import service

MEBIBYTE = 1024 * 1024


async def create_app() -> web.Application:
    answer = service()

    async def predict(request: web.Request) -> web.Response:
        (output,) = answer([orjson.loads(await request.read())["input"]])
        return web.Response(body=orjson.dumps({"output": output}), content_type="application/json")

    app = web.Application(client_max_size=16 * MEBIBYTE)
    app.router.add_post("/predict", predict)
    return app
