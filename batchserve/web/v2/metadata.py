"""What clients of the protocol ask before they infer: the server, its models and their health."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from batchserve import __version__
from batchserve.repository import ModelVersion, State
from batchserve.tasks.tensors import VARIES, TensorSpec
from batchserve.web.body import check_head
from batchserve.web.health import check_live, check_ready
from batchserve.web.keys import ADMINISTRATION, REPOSITORY
from batchserve.web.v2.schema import IndexRequest, parse

EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "schedule_policy"),
    "statistics",
)
# Where Triton's configuration has another name for a datatype.
CONFIGURED = {"BYTES": "STRING"}
PLATFORM = "pytorch_module"
# As Triton's repository index calls them.
STATES = {
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.FAILED: "UNAVAILABLE",
}


async def server(request: web.Request) -> web.Response:
    """Say who answers, and what it knows beside the protocol itself."""
    extensions = [*EXTENSIONS, *(["model_repository"] if ADMINISTRATION in request.app else [])]
    return web.json_response(
        {"name": "batchserve", "version": __version__, "extensions": extensions}
    )


async def live(request: web.Request) -> web.Response:
    """Answer as /livez does."""
    check_live(request.app)
    return web.json_response({"live": True})


async def ready(request: web.Request) -> web.Response:
    """Answer as /readyz does; the protocol calls this live, too."""
    check_ready(request.app)
    return web.json_response({"live": True, "ready": True})


async def model_ready(request: web.Request) -> web.Response:
    """Say whether one model, or one version of it, would answer now."""
    model = _find(request)
    model.check_ready()
    return web.json_response({"name": model.name, "ready": True})


async def model(request: web.Request) -> web.Response:
    """Describe a model's inputs and outputs."""
    found = _find_loaded(request)
    return web.json_response(
        {
            "name": found.name,
            "versions": [
                version.version
                for version in request.app[REPOSITORY].versions
                if version.name == found.name
            ],
            "platform": PLATFORM,
            "inputs": _described(found.task.input_specs()),
            "outputs": _described(found.outputs),
        }
    )


async def config(request: web.Request) -> web.Response:
    """Describe a model as Triton's tools expect it, for which its metadata do not suffice.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
    """
    found = _find_loaded(request)
    batching = found.config.batching
    return web.json_response(
        {
            "name": found.name,
            "platform": PLATFORM,
            "max_batch_size": found.max_batch_size,
            "input": _configured(found.task.input_specs()),
            "output": _configured(found.outputs),
            "dynamic_batching": {
                "max_queue_delay_microseconds": round(1000 * batching.max_wait_ms)
            },
        }
    )


async def index(request: web.Request) -> web.Response:
    """List every version, or with `{"ready": true}` those that would answer now."""
    check_head(request)
    body = await request.read()
    asked = parse(IndexRequest, body) if body else IndexRequest()
    return web.json_response(
        [
            _indexed(version)
            for version in request.app[REPOSITORY].versions
            if version.ready or not asked.ready
        ]
    )


def _find(request: web.Request) -> ModelVersion:
    path = request.match_info
    return request.app[REPOSITORY].find(path["name"], path.get("version"))


def _find_loaded(request: web.Request) -> ModelVersion:
    found = _find(request)
    if not found.loaded:
        # Nothing is known of it yet.
        found.check_ready()
    return found


def _described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "datatype": spec.datatype, "shape": [VARIES, *spec.shape]}
        for spec in specs
    ]


def _configured(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "data_type": f"TYPE_{CONFIGURED.get(spec.datatype, spec.datatype)}",
            "dims": [*spec.shape],
        }
        for spec in specs
    ]


def _indexed(version: ModelVersion) -> dict[str, str]:
    state = STATES[version.state]
    if state == "READY" and not version.ready:
        state = "UNAVAILABLE"
    return {
        "name": version.name,
        "version": version.version,
        "state": state,
        "reason": "" if version.ready else version.condition,
    }
