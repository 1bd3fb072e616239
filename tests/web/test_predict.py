"""Predicting: routes, bodies, headers, batches of many clients, and clients that leave."""

import asyncio
import base64
import io
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from batchserve.batch import Item
from batchserve.batching.batcher import Batcher
from batchserve.config import Config
from batchserve.runners import warmup
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from batchserve.testing import GatedRunner
from batchserve.web.schema import schema_of
from tests.web.clients import BOTH_WAYS, Client, batcher_of, gate, until

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "name": "double", "source": "tests.models:Double"}
COLOUR: dict[str, Any] = {
    "server": SERVER,
    "name": "colour",
    "source": "tests.models:MeanColour",
    "task": "image-classification",
    "labels": ["r", "g", "b"],
    "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
}
# Answers tell the version: itself, or twice itself.
SEVERAL = Config.model_validate(
    {
        "server": SERVER,
        "models": [
            {"name": "numbers", "version": "2", "source": "tests.models:Double", "device": "cpu"},
            {"name": "numbers", "version": "1", "source": "torch.nn:Identity", "device": "cpu"},
            {"name": "other", "version": "7b", "source": "torch.nn:Identity", "device": "cpu"},
        ],
    }
)
ONE_AT_A_TIME = {"max_batch_size": 1, "max_queue_size": 1}
TIMING = re.compile(r"decode;dur=(\d+\.\d+), queue;dur=(\d+\.\d+), forward;dur=(\d+\.\d+)")


def picture(colour: tuple[int, int, int] = (255, 128, 0)) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def number(value: float) -> dict[str, Any]:
    return {"json": {"input": [value]}}


# Which model answers.


@BOTH_WAYS
@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/predict", {"output": [6.0], "model": "numbers", "version": "2"}),
        ("/models/numbers/predict", {"output": [6.0], "model": "numbers", "version": "2"}),
        (
            "/models/numbers/versions/2/predict",
            {"output": [6.0], "model": "numbers", "version": "2"},
        ),
        (
            "/models/numbers/versions/1/predict",
            {"output": [3.0], "model": "numbers", "version": "1"},
        ),
        ("/models/other/predict", {"output": [3.0], "model": "other", "version": "7b"}),
        (
            "/models/other/versions/7b/predict",
            {"output": [3.0], "model": "other", "version": "7b"},
        ),
    ],
)
async def test_the_path_names_the_model(serve, path, answer):
    client = await serve(SEVERAL)
    response = await client.post(path, **number(3))
    assert response.status == 200
    assert response.content_type == "application/json"
    assert await response.json() == answer


@BOTH_WAYS
@pytest.mark.parametrize(
    "path",
    [
        "/models/numbers/versions/7b/predict",
        "/models/other/versions/1/predict",
        "/models/2/predict",
    ],
)
async def test_a_version_belongs_to_its_model(serve, path):
    client = await serve(SEVERAL)
    response = await client.post(path, **number(3))
    assert response.status == 404


@BOTH_WAYS
async def test_models_do_not_share_batches(serve):
    client = await serve(SEVERAL)
    paths = ["/models/numbers/versions/2", "/models/numbers/versions/1", "/models/other"] * 4
    responses = await asyncio.gather(
        *(client.post(f"{path}/predict", **number(i)) for i, path in enumerate(paths))
    )
    outputs = [(await response.json())["output"] for response in responses]
    assert outputs == [[2.0 * i if i % 3 == 0 else i] for i in range(12)]


# The body.


@BOTH_WAYS
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"input": [1, 2]}, {"output": [2.0, 4.0]}),
        ({"inputs": [[1, 2]]}, {"outputs": [[2.0, 4.0]]}),
        ({"inputs": [[1], [2], [3]]}, {"outputs": [[2.0], [4.0], [6.0]]}),
    ],
)
async def test_the_answer_is_of_the_form_that_it_is_documented_in(serve, body, answer):
    client = await serve(**DOUBLE)
    response = await client.post("/predict", json=body)
    found = await response.json()
    assert found == {**answer, "model": "double", "version": "1"}
    parsed = schema_of(TensorTask).response.model_validate(found)
    assert parsed.model_dump(exclude_unset=True) == found


@BOTH_WAYS
@pytest.mark.parametrize("body", [{"input": picture()}, {"inputs": [picture(), picture()]}])
async def test_predictions_are_of_the_form_that_they_are_documented_in(serve, body):
    client = await serve(**COLOUR)
    response = await client.post("/predict", json=body)
    found = await response.json()
    assert set(found) == {"output" if "input" in body else "outputs", "model", "version"}
    predictions = found["output"] if "input" in body else found["outputs"][0]
    assert [set(prediction) for prediction in predictions] == [{"label", "index", "score"}] * 3
    parsed = schema_of(ImageClassification).response.model_validate(found, strict=True)
    assert parsed.model_dump(exclude_unset=True) == found


@BOTH_WAYS
@pytest.mark.parametrize(
    ("query", "labels"),
    [("", "rgb"), ("?top_k=1", "r"), ("?top_k=2", "rg"), ("?top_k=3", "rgb"), ("?top_k=99", "rgb")],
)
async def test_the_best_predictions_come_first(serve, query, labels):
    client = await serve(**COLOUR)
    response = await client.post(f"/predict{query}", json={"input": picture((255, 128, 0))})
    predictions = (await response.json())["output"]
    assert "".join(prediction["label"] for prediction in predictions) == labels
    assert [prediction["index"] for prediction in predictions] == list(range(len(labels)))
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)


@BOTH_WAYS
async def test_top_k_holds_for_each_of_a_list(serve):
    client = await serve(**COLOUR)
    body = {"inputs": [picture((0, 0, 255)), picture((0, 255, 0))]}
    response = await client.post("/predict?top_k=1", json=body)
    outputs = (await response.json())["outputs"]
    assert [[prediction["label"] for prediction in output] for output in outputs] == [["b"], ["g"]]


@BOTH_WAYS
async def test_requests_of_one_batch_keep_their_own_parameters(serve):
    # Only a batch of three, or ten seconds, would end their wait together.
    batching = {"max_batch_size": 3, "max_wait_ms": 10_000, "policy": "fixed"}
    client = await serve(**COLOUR, batching=batching)
    responses = await asyncio.gather(
        *(client.post(f"/predict?top_k={k}", json={"input": picture()}) for k in (1, 2, 3))
    )
    assert {response.headers["X-Batch-Size"] for response in responses} == {"3"}
    assert [len((await response.json())["output"]) for response in responses] == [1, 2, 3]


# The headers.


@BOTH_WAYS
@pytest.mark.parametrize(
    "request_id", ["7", "abc-123", "7e1f:0/1.2_3~", "!" * 128, '"quoted";<b>\\', "a=b,c"]
)
async def test_a_sane_request_id_comes_back(serve, request_id):
    client = await serve(**DOUBLE)
    for path in ("/predict", "/models/nobody/predict"):
        response = await client.post(path, headers={"X-Request-Id": request_id}, **number(1))
        assert response.headers.getall("X-Request-Id") == [request_id]


@BOTH_WAYS
@pytest.mark.parametrize("request_id", ["", "two words", "a\tb", "a" * 129, "é", "日本"], ids=ascii)
async def test_another_request_id_is_replaced(serve, request_id):
    client = await serve(**DOUBLE)
    response = await client.post("/predict", headers={"X-Request-Id": request_id}, **number(1))
    assert response.status == 200
    (made,) = response.headers.getall("X-Request-Id")
    assert made != request_id
    assert re.fullmatch("[0-9a-f]{32}", made)


@BOTH_WAYS
@pytest.mark.parametrize("newline", [b"\r\n ", b"\n ", b"\r\n\t", b"\r\nX-Forged: 1", b"\r"])
async def test_a_newline_in_a_request_id_does_not_come_back(serve, newline):
    client = await serve(**DOUBLE)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"X-Request-Id: mine" + newline + b"X-Other: yours\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.")
    head = answer.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0].lower() for line in head.split(b"\n")[1:]]
    assert b"x-forged" not in names
    assert b"x-other" not in names
    assert names.count(b"x-request-id") <= 1


@BOTH_WAYS
async def test_made_request_ids_differ(serve):
    client = await serve(**DOUBLE)
    responses = [await client.post("/predict", **number(i)) for i in range(20)]
    assert len({response.headers["X-Request-Id"] for response in responses}) == 20


@BOTH_WAYS
@pytest.mark.parametrize(
    "path", ["/", "/docs", "/models", "/livez", "/readyz", "/metrics", "/openapi.json", "/none"]
)
async def test_every_answer_has_a_request_id(serve, path):
    client = await serve(**DOUBLE)
    response = await client.get(path, headers={"X-Request-Id": "mine"})
    assert response.headers["X-Request-Id"] == "mine"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("model", "body"),
    [
        (DOUBLE, {"input": [1]}),
        (DOUBLE, {"inputs": [[1], [2], [3]]}),
        (COLOUR, {"input": picture()}),
    ],
)
async def test_server_timing_tells_the_three_stages(serve, model, body):
    client = await serve(**model)
    response = await client.post("/predict", json=body)
    timing = TIMING.fullmatch(response.headers["Server-Timing"])
    assert timing
    assert all(float(milliseconds) >= 0 for milliseconds in timing.groups())


@BOTH_WAYS
async def test_server_timing_tells_the_time_in_the_queue(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, batcher = gate(client), batcher_of(client)
    now_s = 0.0
    batcher.clock = batcher.passes._clock = lambda: now_s
    first = asyncio.create_task(client.post("/predict", **number(1)))
    await runner.wait_started()
    second = asyncio.create_task(client.post("/predict", **number(2)))
    await until(lambda: batcher.queued)
    now_s = 1.5
    runner.release()
    await runner.wait_started()
    now_s = 3.5
    runner.release()
    timings = [
        TIMING.fullmatch((await response).headers["Server-Timing"]) for response in (first, second)
    ]
    stages = [timing.groups()[1:] for timing in timings if timing]
    assert stages == [("0.000", "1500.000"), ("1500.000", "2000.000")]


@BOTH_WAYS
async def test_an_error_has_no_batch_size(serve):
    client = await serve(**DOUBLE)
    response = await client.post("/predict", json={"input": "text"})
    assert response.status == 422
    assert "X-Batch-Size" not in response.headers
    assert "Server-Timing" not in response.headers


@BOTH_WAYS
@pytest.mark.parametrize("milliseconds", ["20000", "20000.5", "2e4", " 20000 "])
async def test_a_client_may_set_its_time(serve, milliseconds):
    client = await serve(**DOUBLE)
    headers = {"X-Request-Timeout-Ms": milliseconds}
    response = await client.post("/predict", headers=headers, **number(1))
    assert response.status == 200


# Batches.


async def closed(client: Client) -> dict[str, float]:
    """Return how many batches were closed, by reason."""
    text = await (await client.get("/metrics")).text()
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "batchserve_batches_total"
    }


@BOTH_WAYS
async def test_alone_a_request_is_a_batch_of_one_that_waits_for_nobody(serve):
    # An hour: waiting for company would be noticed.
    client = await serve(**DOUBLE, batching={"max_batch_size": 8, "max_wait_ms": 20_000})
    for i in range(3):
        response = await client.post("/predict", **number(i))
        assert response.headers["X-Batch-Size"] == "1"
        assert response.headers["X-Batch-Reason"] == "idle"
    assert await closed(client) == {"idle": 3.0}


@BOTH_WAYS
async def test_a_list_travels_in_one_batch(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 8})
    response = await client.post("/predict", json={"inputs": [[i] for i in range(5)]})
    assert response.headers["X-Batch-Size"] == "5"


@BOTH_WAYS
async def test_a_list_longer_than_a_batch_travels_in_several(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 4, "max_wait_ms": 20_000})
    response = await client.post("/predict", json={"inputs": [[i] for i in range(10)]})
    assert response.headers["X-Batch-Size"] == "4"
    # Of the last batch.
    assert response.headers["X-Batch-Reason"] == "idle"
    assert await closed(client) == {"full": 2.0, "idle": 1.0}


@BOTH_WAYS
@pytest.mark.parametrize("words", [("interactive", "bulk"), ("1", "3"), ("Interactive", "0")])
async def test_who_states_a_higher_priority_passes(serve, words):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, batcher = gate(client), batcher_of(client)
    asking = [asyncio.create_task(client.post("/predict", **number(0)))]
    await runner.wait_started()
    high, low = words
    for value, priority in [(1, low), (2, low), (3, high)]:
        headers = {"X-Priority": priority}
        asking.append(
            asyncio.create_task(client.post("/predict", headers=headers, **number(value)))
        )
        await until(lambda: batcher.queued == len(asking) - 1)
    for _ in asking:
        runner.release()
    assert [response.status for response in await asyncio.gather(*asking)] == [200] * 4
    assert [batch[0].item() for batch in runner.batches] == [0.0, 3.0, 1.0, 2.0]


@BOTH_WAYS
async def test_a_priority_that_means_nothing_is_refused_with_those_there_are(serve):
    client = await serve(**DOUBLE)
    response = await client.post("/predict", headers={"X-Priority": "urgent"}, **number(1))
    assert response.status == 400
    body = await response.json()
    assert body["code"] == "bad_request"
    assert "'urgent' is none of interactive, normal, bulk" in body["error"]


@BOTH_WAYS
async def test_who_comes_while_the_model_is_busy_shares_the_next_batch(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 8})
    runner, batcher = gate(client), batcher_of(client)
    first = asyncio.create_task(client.post("/predict", **number(0)))
    await runner.wait_started()
    others = [asyncio.create_task(client.post("/predict", **number(i))) for i in range(1, 6)]
    await until(lambda: batcher.queued == 5)
    runner.release()
    runner.release()
    responses = [await response for response in (first, *others)]
    assert [response.headers["X-Batch-Size"] for response in responses] == ["1", *["5"] * 5]
    # A gated runner answers each with its own input.
    assert [(await response.json())["output"] for response in responses] == [
        [float(i)] for i in range(6)
    ]


@BOTH_WAYS
@pytest.mark.parametrize("policy", ["adaptive", "fixed"])
@pytest.mark.parametrize("shape", [None, [2]], ids=["not warmed up", "warmed up"])
async def test_many_clients_share_batches_and_each_gets_its_own_row(serve, policy, shape):
    batching = {"max_batch_size": 8, "max_wait_ms": 50, "policy": policy}
    client = await serve(**DOUBLE, input_shape=shape, batching=batching)
    responses = await asyncio.gather(
        *(client.post("/predict", json={"input": [i, 100 + i]}) for i in range(24))
    )
    outputs = [(await response.json())["output"] for response in responses]
    assert outputs == [[2.0 * i, 200.0 + 2 * i] for i in range(24)]
    sizes = [int(response.headers["X-Batch-Size"]) for response in responses]
    assert all(1 <= size <= 8 for size in sizes)
    assert max(sizes) > 1


@BOTH_WAYS
async def test_many_clients_on_the_loops_own_thread(serve, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(warmup, "TRIALS", 1)
    monkeypatch.setattr(warmup, "LOOP_BUDGET_S", 60)
    client = await serve(**DOUBLE, input_shape=[2], batching={"max_batch_size": 8})
    assert batcher_of(client).runner.name == "inline"
    responses = await asyncio.gather(
        *(client.post("/predict", json={"input": [i, -i]}) for i in range(24))
    )
    outputs = [(await response.json())["output"] for response in responses]
    assert outputs == [[2.0 * i, -2.0 * i] for i in range(24)]
    assert max(int(response.headers["X-Batch-Size"]) for response in responses) > 1


@BOTH_WAYS
async def test_many_images_share_batches_and_each_gets_its_own_answer(serve):
    client = await serve(**COLOUR, batching={"max_batch_size": 8, "max_wait_ms": 50})
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255)}
    wanted = "rgbbrg" * 4
    responses = await asyncio.gather(
        *(client.post("/predict", json={"input": picture(colours[name])}) for name in wanted)
    )
    answers = [await response.json() for response in responses]
    assert "".join(answer["output"][0]["label"] for answer in answers) == wanted


@BOTH_WAYS
async def test_shapes_do_not_share_batches(serve):
    batching = {"max_batch_size": 4, "max_wait_ms": 10_000, "policy": "fixed"}
    client = await serve(**DOUBLE, batching=batching)
    bodies = [[1.0], [1.0, 2.0]] * 4
    responses = await asyncio.gather(
        *(client.post("/predict", json={"input": body}) for body in bodies)
    )
    assert {response.headers["X-Batch-Size"] for response in responses} == {"4"}
    assert [(await response.json())["output"] for response in responses] == [
        [2 * value for value in body] for body in bodies
    ]


# Clients that leave.


@pytest.fixture
def submitted(monkeypatch) -> Callable[[Batcher], list[Item]]:
    """Return a function that records the items that a batcher lets in."""

    def watch(batcher: Batcher) -> list[Item]:
        items: list[Item] = []
        submit = batcher.put

        def recorded(*args) -> list[Item]:
            items.extend(let_in := submit(*args))
            return let_in

        monkeypatch.setattr(batcher, "put", recorded)
        return items

    return watch


@BOTH_WAYS
async def test_a_client_that_hangs_up_takes_its_waiting_items_with_it(serve, submitted):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, items = gate(client), submitted(batcher_of(client))
    first = asyncio.create_task(client.post("/predict", **number(1)))
    await runner.wait_started()
    leaving = asyncio.create_task(client.post("/predict", json={"inputs": [[2.0], [3.0]]}))
    await until(lambda: len(items) == 3)
    leaving.cancel()
    await until(lambda: all(item.future.cancelled() for item in items[1:]))

    for _ in range(2):
        runner.release()
    assert (await first).status == 200
    assert (await client.post("/predict", **number(4))).status == 200
    assert [batch[0].tolist() for batch in runner.batches] == [[1.0], [4.0]]


async def check_that_there_is_a_place(client: Client, runner: GatedRunner, monkeypatch) -> None:
    """With the first item in its forward pass, and a queue of one: ask for that one."""
    batcher = batcher_of(client)
    asked = Mock(wraps=batcher.arrival)
    monkeypatch.setattr(batcher, "arrival", asked)
    next_ = asyncio.create_task(client.post("/predict", **number(3)))
    await until(lambda: asked.called and not batcher._arriving)
    for _ in range(3):
        runner.release()
    response = await next_
    assert response.status == 200, f"nobody holds a place: {await response.text()}"
    assert [batch[0].tolist() for batch in runner.batches] == [[1.0], [3.0]]


@BOTH_WAYS
async def test_a_client_that_hangs_up_gives_its_place_in_the_queue_to_the_next(
    serve, submitted, monkeypatch
):
    client = await serve(**DOUBLE, batching=ONE_AT_A_TIME)
    runner, items = gate(client), submitted(batcher_of(client))
    first = asyncio.create_task(client.post("/predict", **number(1)))
    await runner.wait_started()
    leaving = asyncio.create_task(client.post("/predict", **number(2)))
    await until(lambda: len(items) == 2)
    leaving.cancel()
    await until(items[1].future.cancelled)
    await check_that_there_is_a_place(client, runner, monkeypatch)
    assert (await first).status == 200


@BOTH_WAYS
async def test_a_client_whose_time_is_over_gives_its_place_in_the_queue_to_the_next(
    serve, monkeypatch
):
    client = await serve(**DOUBLE, batching=ONE_AT_A_TIME)
    runner = gate(client)
    first = asyncio.create_task(client.post("/predict", **number(1)))
    await runner.wait_started()
    late = await client.post("/predict", headers={"X-Request-Timeout-Ms": "20"}, **number(2))
    assert late.status == 504
    await check_that_there_is_a_place(client, runner, monkeypatch)
    assert (await first).status == 200


@BOTH_WAYS
async def test_a_client_that_hangs_up_during_its_forward_pass_harms_nobody(serve, submitted):
    # Only a batch of two, or an hour, would end their wait together.
    batching = {"max_batch_size": 2, "max_wait_ms": 20_000, "policy": "fixed"}
    client = await serve(**DOUBLE, batching=batching)
    runner, items = gate(client), submitted(batcher_of(client))
    pair = [asyncio.create_task(client.post("/predict", **number(i))) for i in (2, 3)]
    await runner.wait_started()
    leaving = int(items[0].tensor) - 2
    pair[leaving].cancel()
    await until(items[0].future.cancelled)
    runner.release()
    staying = await pair[1 - leaving]
    assert staying.status == 200
    assert (await staying.json())["output"] == items[1].tensor.tolist()


@BOTH_WAYS
async def test_nobody_waits_for_a_client_that_leaves_in_the_middle_of_its_body(serve):
    batching = {"max_batch_size": 8, "max_wait_ms": 20_000}
    client = await serve(**DOUBLE, batching=batching)
    batcher = batcher_of(client)
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 16\r\n\r\n"
        b'{"input": '
    )
    await until(lambda: batcher._arriving)
    # Somebody is still sending, and might join.
    waiting = asyncio.create_task(client.post("/predict", **number(1)))
    await until(lambda: batcher.queued)
    writer.close()
    await writer.wait_closed()
    assert (await waiting).headers["X-Batch-Size"] == "1"
    assert not batcher._arriving


@BOTH_WAYS
async def test_a_slow_body_is_waited_for(serve):
    batching = {"max_batch_size": 8, "max_wait_ms": 20_000}
    client = await serve(**DOUBLE, batching=batching)
    batcher = batcher_of(client)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: 16\r\n\r\n"
        b'{"input": '
    )
    await until(lambda: batcher._arriving)
    waiting = asyncio.create_task(client.post("/predict", **number(1)))
    await until(lambda: batcher.queued)
    writer.write(b"[3.5]}")
    slow = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b'"output":[7.0]' in slow
    assert (await waiting).headers["X-Batch-Size"] == "2"
