"""What is sent: as the command line says, or as the server tells what its model takes."""

import io
import json
import math
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchserve.bench.request import Request, ask
from batchserve.bench.target import Target, TargetError
from batchserve.errors import ConfigError
from batchserve.samples import PHOTOS, drawn_jpeg

CONTENT_TYPE, JSON, NPY, JPEG = (
    "content-type",
    "application/json",
    "application/x-npy",
    "image/jpeg",
)
SUFFIXES = {".npy": NPY, ".json": JSON}
OF_A_MODEL = re.compile(
    r"(/models/(?P<name>[^/?]+)(/versions/(?P<version>[^/?]+))?)?/predict(\?|$)"
)
OF_V2 = re.compile(r"/v2/models/[^/?]+(/versions/[^/?]+)?(?=/infer(\?|$))")
TEXT = "Batches are formed from all that is waiting when the device becomes free."
# More numbers than these are sent as an array of numpy's: a client in earnest would.
MOST_IN_JSON = 4096
LOOK_S = 10.0


@dataclass(frozen=True)
class Inputs:
    """What is sent where.

    Attributes:
        target: as it was given, or the path of a model there.
        requests: sent in turn.
        description: of them, for people.
    """

    target: Target
    requests: Sequence[Request]
    description: str


def stated(
    target: Target,
    files: Sequence[Path],
    texts: Sequence[str],
    content_type: str | None,
    method: str | None,
    headers: Mapping[str, str],
) -> Inputs | None:
    """Return what the command line says; None: it says nothing of a body.

    Raises:
        ConfigError: a file cannot be read, or a text is not JSON.
    """
    bodies = [*map(_of_file, files), *map(_of_text, texts)]
    if not bodies and method is None:
        return None
    if not bodies:
        return Inputs(target, [Request(method or "GET", b"", headers)], "no body")
    requests = [
        Request(method or "POST", body, {CONTENT_TYPE: content_type or kind, **headers}, name)
        for name, kind, body in bodies
    ]
    shown = ", ".join(f"{one.name} ({one.headers[CONTENT_TYPE]})" for one in requests)
    return Inputs(target, requests, shown)


def found_out(target: Target, headers: Mapping[str, str]) -> Inputs:
    """Return what the server's model takes; the page itself (GET) where there is no model.

    Raises:
        ConfigError: nothing can be made up that the model would take.
        TargetError: the server does not answer.
    """
    described = _models(target, headers)
    path = OF_A_MODEL.match(target.path)
    if described is not None and (path or target.path == "/"):
        model = _choose(target, described, path)
        if not path:
            target = target.at(f"/models/{model['name']}/predict")
        return _of_model(target, model, headers)
    if protocol := OF_V2.match(target.path):
        return _of_v2(target, protocol.group(), headers)
    return Inputs(target, [Request("GET", b"", headers)], "no body")


def _of_file(path: Path) -> tuple[str, str, bytes]:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--file {path}: {error.strerror}") from None
    kind = SUFFIXES.get(path.suffix) or mimetypes.guess_type(path)[0]
    return path.name, kind or "application/octet-stream", body


def _of_text(text: str) -> tuple[str, str, bytes]:
    try:
        json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--json {_short(text)}: {error}") from None
    return _short(text), JSON, text.encode()


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004 - for a line


def _get(target: Target, path: str, headers: Mapping[str, str]) -> Any:
    """Return what JSON is at a path; None: there is none."""
    reply = ask(target.at(path), Request("GET", b"", headers), LOOK_S)
    if reply.status in (401, 403):
        raise TargetError(
            f"{target.at(path)} wants a key ({reply.status}): --header 'X-API-Key: …'"
        )
    try:
        return json.loads(reply.body) if reply.ok else None
    except ValueError:
        return None


def _models(target: Target, headers: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return what batchserve tells of its models; None: it is another server."""
    answer = _get(target, "/models", headers)
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        return None
    return [model for model in models if isinstance(model, dict) and "name" in model]


def _choose(
    target: Target, models: list[dict[str, Any]], path: re.Match[str] | None
) -> dict[str, Any]:
    asked = path.groupdict() if path else {}
    name, version = asked.get("name"), asked.get("version")
    for model in models:
        chosen = model.get("current") if version is None else model.get("version") == version
        if "input" in model and chosen and name in (None, model["name"]):
            return model
    states = ", ".join(f"{model['name']}: {model.get('state')}" for model in models) or "none"
    raise TargetError(f"{target} has no model that is ready; it has {states}")


def _of_model(target: Target, model: dict[str, Any], headers: Mapping[str, str]) -> Inputs:
    told = model["input"]
    match told["kind"]:
        case "image":
            name, bodies = _photos(target, headers)
            requests = [Request("POST", body, {CONTENT_TYPE: JPEG, **headers}) for body in bodies]
            return Inputs(target, requests, f"{name} ({JPEG}) for {model['name']}")
        case "numbers" if told.get("shape") is not None:
            shape = [1 if size < 0 else size for size in told["shape"]]
            array = example(shape, told["dtype"])
            kind, body = _of_array(array)
            description = f"{_kind_of(array)} ({kind}) for {model['name']}"
        case "text":
            kind, body = JSON, json.dumps({"input": TEXT}).encode()
            description = f"{json.dumps(TEXT)} ({kind}) for {model['name']}"
        case _:
            raise ConfigError(
                f"{model['name']} does not tell what its inputs look like; give one: --json "
                f"'{{\"input\": …}}' or --file FILE (/docs of the server may help)"
            )
    request = Request("POST", body, {CONTENT_TYPE: kind, **headers})
    return Inputs(target, [request], description)


def _photos(target: Target, headers: Mapping[str, str]) -> tuple[str, list[bytes]]:
    plain = Request("GET", b"", headers)
    replies = {name: ask(target.at(f"/samples/{name}.jpg"), plain, LOOK_S) for name in PHOTOS}
    photos = {name: reply.body for name, reply in replies.items() if reply.ok}
    if photos:
        return f"the photos {', '.join(photos)}", [*photos.values()]
    return "a drawn photo", [drawn_jpeg()]


def example(shape: Sequence[int], dtype: str) -> np.ndarray[Any, Any]:
    """Return an input: noise as fractions; as whole numbers zeros, which every vocabulary has."""
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return np.zeros(shape, kind)
    return np.random.default_rng(0).standard_normal(shape).astype(kind)


def _kind_of(array: np.ndarray[Any, Any]) -> str:
    return f"{'noise' if array.dtype.kind == 'f' else 'zeros'}, {array.dtype}{list(array.shape)}"


def _of_array(array: np.ndarray[Any, Any]) -> tuple[str, bytes]:
    if array.size <= MOST_IN_JSON:
        return JSON, json.dumps({"input": array.tolist()}).encode()
    file = io.BytesIO()
    # One input is a row of the array.
    np.save(file, array[np.newaxis])
    return NPY, file.getvalue()


def _of_v2(target: Target, path: str, headers: Mapping[str, str]) -> Inputs:
    """Make up tensors for the Open Inference Protocol, of which one is a batch."""
    told = _get(target, path, headers)
    if not isinstance(told, dict) or not told.get("inputs"):
        raise TargetError(f"{target.at(path)} does not tell the model's inputs; give a --json")
    inputs, shown = [], []
    for one in told["inputs"]:
        name, datatype = one["name"], one["datatype"]
        shape = [1 if int(size) < 0 else int(size) for size in one["shape"]]
        whole = datatype[:2] not in ("FP", "BF")
        if datatype == "BYTES":
            data: list[Any] = [TEXT] * math.prod(shape)
        else:
            data = example(shape, "int64" if whole else "float32").flatten().tolist()
            data = [bool(value) for value in data] if datatype == "BOOL" else data
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
        shown.append(f"{name}: {datatype}{shape}")
    body = json.dumps({"inputs": inputs}).encode()
    request = Request("POST", body, {CONTENT_TYPE: JSON, **headers})
    return Inputs(target, [request], f"{', '.join(shown)} ({JSON})")
