"""POST /v2/models/{name}/infer: tensors in, tensors out."""

import gzip
import zlib
from collections.abc import Callable
from functools import partial

from aiohttp import web

from batchserve.inference import Answer
from batchserve.tasks.tensors import named_arrays
from batchserve.web.ask import ask, find_model, headers_of, terms_of
from batchserve.web.formats import JSON
from batchserve.web.keys import ARRIVED_S, POOL
from batchserve.web.v2.request import HEADER_LENGTH, InferQuestion, read_infer
from batchserve.web.v2.response import encode_infer

BINARY = "application/octet-stream"
# Numbers hardly shrink, and more effort shrinks them no further.
EFFORT = 1
# Where it is all that Accept-Encoding says, as from Triton's client when it is told to. Most other
# clients always send a list of what they could read.
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=EFFORT, mtime=0),
    "deflate": partial(zlib.compress, level=EFFORT),
}


async def infer(request: web.Request) -> web.Response:
    """Answer with the outputs of the model that the path names."""
    path, pool = request.match_info, request.app[POOL]
    model = find_model(request, path["name"], path.get("version"))
    terms = terms_of(request, model)
    question, answer = await ask(
        request,
        model,
        terms,
        read=partial(read_infer, request, model, terms, request[ARRIVED_S]),
        encode=lambda row, _task: named_arrays(row),
    )
    coding = request.headers.get("Accept-Encoding", "").strip().lower()
    compress = CODINGS.get(coding)
    work = partial(_encode, question, answer, compress)
    # A text for each class is slow work, few as the numbers may be.
    if answer.is_small and not (compress or question.classifies):
        body, header_length = work()
    else:
        body, header_length = await pool.encode(work)
    response = web.Response(body=body, content_type=JSON, headers=headers_of(answer))
    if header_length is not None:
        response.content_type = BINARY
        response.headers[HEADER_LENGTH] = str(header_length)
    if compress is not None:
        response.headers["Content-Encoding"] = coding
    return response


def _encode(
    question: InferQuestion,
    answer: Answer,
    compress: Callable[[bytes], bytes] | None,
) -> tuple[bytes, int | None]:
    body, header_length = encode_infer(answer.model, question, answer.outputs)
    return body if compress is None else compress(body), header_length
