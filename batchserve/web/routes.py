"""Every path, and who answers it: the one table of routes."""

from functools import partial

from aiohttp import web

from batchserve.config import Config
from batchserve.web import (
    admin,
    dashboard,
    debug,
    health,
    kserve_v1,
    operations,
    page,
    torchserve,
    torchserve_admin,
)
from batchserve.web.authority import is_administration
from batchserve.web.endpoints import Endpoint
from batchserve.web.openapi import openapi
from batchserve.web.predict import predict
from batchserve.web.v2 import metadata, statistics
from batchserve.web.v2 import repository as v2_repository
from batchserve.web.v2.infer import infer

ROUTES = [
    *(
        route(path, predict)
        for path in (
            "/predict",
            "/models/{name}/predict",
            "/models/{name}/versions/{version}/predict",
        )
        for route in (web.post, partial(web.get, allow_head=False))
    ),
    web.get("/v2", metadata.server),
    web.get("/v2/health/live", metadata.live),
    web.get("/v2/health/ready", metadata.ready),
    # Before the models, of which one called stats cannot be described.
    web.get("/v2/models/stats", statistics.stats),
    web.get("/v2/models/{name}/stats", statistics.stats),
    web.get("/v2/models/{name}/versions/{version}/stats", statistics.stats),
    web.get("/v2/models/{name}", metadata.model),
    web.get("/v2/models/{name}/versions/{version}", metadata.model),
    web.get("/v2/models/{name}/config", metadata.config),
    web.get("/v2/models/{name}/versions/{version}/config", metadata.config),
    web.get("/v2/models/{name}/ready", metadata.model_ready),
    web.get("/v2/models/{name}/versions/{version}/ready", metadata.model_ready),
    web.post("/v2/models/{name}/infer", infer),
    web.post("/v2/models/{name}/versions/{version}/infer", infer),
    web.post("/v2/repository/index", metadata.index),
    web.post("/v2/repository/models/{name}/load", v2_repository.load),
    web.post("/v2/repository/models/{name}/unload", v2_repository.unload),
    web.get("/v1/models", kserve_v1.list_models),
    web.post("/v1/models/{name}:predict", kserve_v1.predict),
    web.get("/v1/models/{name}", kserve_v1.model_ready),
    web.post("/predictions/{name}", torchserve.predict),
    web.put("/predictions/{name}", torchserve.predict),
    web.post("/predictions/{name}/{version}", torchserve.predict),
    web.put("/predictions/{name}/{version}", torchserve.predict),
    web.get("/models", operations.list_models),
    web.get("/models/{name}", operations.show_model),
    web.post("/models", torchserve_admin.register),
    web.put("/models/{name}", torchserve_admin.scale),
    web.put("/models/{name}/{version}", torchserve_admin.scale),
    web.put("/models/{name}/{version}/set-default", torchserve_admin.set_default),
    web.delete("/models/{name}", torchserve_admin.unregister),
    web.delete("/models/{name}/{version}", torchserve_admin.unregister),
    web.put("/admin/models/{name}/versions/{version}", admin.load_version),
    web.delete("/admin/models/{name}/versions/{version}", admin.unload_version),
    web.put("/admin/models/{name}/current", admin.set_current),
    web.post("/admin/models/{name}/rollback", admin.roll_back),
    web.put("/admin/models/{name}/candidate", admin.set_candidate),
    web.delete("/admin/models/{name}/candidate", admin.clear_candidate),
    web.post("/admin/models/{name}/promote", admin.promote),
    web.get("/livez", health.live),
    web.get("/readyz", health.ready),
    web.get("/healthz", health.ready),
    web.get("/ping", health.ping),
    web.get("/metrics", operations.expose_metrics),
    web.get("/debug/batches", debug.show_batches),
    web.get("/openapi.json", openapi),
    web.get("/docs", page.docs),
    web.get("/docs/static/{name}", page.docs_asset),
    web.get("/", page.index),
    web.get("/dashboard", page.dashboard),
    web.get("/dashboard/data", dashboard.show_history),
    web.get("/static/{name}", page.asset),
    web.get("/samples/{name}", page.sample),
]


def add_routes(router: web.UrlDispatcher, config: Config) -> None:
    """Add the table's routes, and the operator's own endpoints.

    Those of administration are there only if a token is set.
    """
    administered = config.server.admin_token is not None
    router.add_routes(
        route for route in ROUTES if administered or not is_administration(route.handler)
    )
    for endpoint in config.endpoints:
        router.add_post(endpoint.path, Endpoint(endpoint, config.models).answer)
