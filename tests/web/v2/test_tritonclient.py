"""The real client of the protocol, in both of its forms."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as blocking
import tritonclient.http.aio as triton
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from batchserve.config import Config
from tests.conftest import photo
from tests.web.clients import Client, batcher_of, gate, until

MODELS = Config.model_validate(
    {
        "server": {"torch_threads": 1},
        "models": [
            {
                "name": "double",
                "source": "tests.models:Double",
                "input_shape": [2],
                "batching": {"max_batch_size": 8},
                "device": "cpu",
            },
            {"name": "any", "source": "tests.models:Double", "device": "cpu"},
            {"name": "several", "source": "tests.web.v2.models:Several", "device": "cpu"},
            {
                "name": "tokens",
                "source": "tests.web.v2.models:MaskedSum",
                "task": "tests.web.v2.models:Tokens",
                "device": "cpu",
            },
        ],
    }
)
X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def given(x: Any, name: str = "input", *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, [*x.shape], np_to_triton_dtype(x.dtype))
    return tensor.set_data_from_numpy(x, binary_data=binary)


@pytest.fixture
async def server(serve) -> Client:
    served: Client = await serve(MODELS)
    return served


@pytest.fixture
async def client(server: Client) -> AsyncIterator[Any]:
    async with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
        yield client


@pytest.fixture
async def shipped(serve, shipped_config: Config) -> AsyncIterator[Any]:
    """A client of the model that `make serve` serves."""
    served = await serve(shipped_config)
    async with triton.InferenceServerClient(f"{served.host}:{served.port}") as client:
        yield client


async def test_health(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("double")
    assert await client.is_model_ready("double", "1")
    assert not await client.is_model_ready("double", "2")
    assert not await client.is_model_ready("none")


async def test_metadata(client):
    assert (await client.get_server_metadata())["name"] == "batchserve"
    metadata = await client.get_model_metadata("double")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]
    config = await client.get_model_config("double")
    assert config["max_batch_size"] == 8
    assert {entry["name"] for entry in await client.get_model_repository_index()} == {
        *("double", "any", "several", "tokens")
    }


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
async def test_json_and_binary(client, sent, wanted):
    outputs = [InferRequestedOutput("output", binary_data=wanted)]
    result = await client.infer("double", [given(X, binary=sent)], outputs=outputs)
    assert np.array_equal(result.as_numpy("output"), 2 * X)
    assert ("data" in result.get_output("output")) is not wanted


async def test_what_is_not_said_comes_in_binary(client):
    result = await client.infer("double", [given(X)], "1", request_id="a-17")
    assert np.array_equal(result.as_numpy("output"), 2 * X)
    response = result.get_response()
    assert response["id"] == "a-17"
    assert (response["model_name"], response["model_version"]) == ("double", "1")
    assert result.as_numpy("none") is None


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", ml_dtypes.bfloat16),
    ],
)
async def test_every_type_of_number(client, dtype):
    x = np.array([[0, 1], [1, 1]]).astype(dtype)
    forms = [True] if dtype is ml_dtypes.bfloat16 else [True, False]
    for binary in forms:
        result = await client.infer("double", [given(x, binary=binary)])
        assert result.as_numpy("output").tolist() == [[0, 2], [2, 2]]


async def test_several_inputs_one_of_them_in_json(client):
    ids = given(np.array([[1, 2], [3, 4]]), "input_ids", binary=False)
    mask = given(np.array([[1, 1], [0, 1]]), "attention_mask")
    for inputs in ([ids, mask], [mask, ids]):
        result = await client.infer("tokens", inputs)
        assert result.as_numpy("output").tolist() == [3, 4]


async def test_several_outputs_one_of_them_in_json(client):
    outputs = [
        InferRequestedOutput("positive", binary_data=True),
        InferRequestedOutput("sum", binary_data=False),
    ]
    result = await client.infer("several", [given(X)], outputs=outputs)
    assert result.as_numpy("sum").tolist() == [3, 7, 11]
    assert result.as_numpy("positive").all()
    assert result.as_numpy("double") is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_both_ways(client, coding):
    for binary in (True, False):
        result = await client.infer(
            "any",
            [given(np.ones((4, 5000), np.float32), binary=binary)],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert (result.as_numpy("output") == 2).all()


async def test_parameters_of_others_pass_unheeded(client):
    result = await client.infer("double", [given(X)], parameters={"top_k": 3, "who": "me"})
    assert np.array_equal(result.as_numpy("output"), 2 * X)


async def test_who_states_a_higher_priority_passes(server: Client, client):
    runner, batcher = gate(server), batcher_of(server)
    asking = [asyncio.create_task(client.infer("double", [given(np.zeros((8, 2), np.float32))]))]
    await runner.wait_started()
    for value, priority in [(1, 3), (2, 1)]:
        x = np.full((8, 2), value, np.float32)
        asking.append(asyncio.create_task(client.infer("double", [given(x)], priority=priority)))
        await until(lambda: batcher.queued == 8 * (len(asking) - 1))
    for _ in asking:
        runner.release()
    await asyncio.gather(*asking)
    _, first, last = ([item[0].item() for item in batch] for batch in runner.batches)
    # Who waits with a low priority keeps a small share.
    assert first.count(2) > 6 > last.count(2)


async def test_concurrent_requests_share_a_batch(server: Client, client):
    runner, batcher = gate(server), batcher_of(server)
    asking = [asyncio.create_task(client.infer("double", [given(X[:1])]))]
    await runner.wait_started()
    asking += [asyncio.create_task(client.infer("double", [given(X[:1])])) for _ in range(4)]
    await until(lambda: batcher.queued == 4)
    runner.release()
    runner.release()
    assert [result.as_numpy("output").shape for result in await asyncio.gather(*asking)] == [
        (1, 2)
    ] * 5
    assert [len(batch) for batch in runner.batches] == [1, 4]


async def test_statistics(client):
    await client.infer("any", [given(X)])
    await client.infer("any", [given(X)])
    with pytest.raises(InferenceServerException):
        await client.infer("any", [given(X, "other")])
    (stats,) = (await client.get_inference_statistics("any"))["model_stats"]
    assert stats["inference_count"] == 6
    assert stats["execution_count"] == 2
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert [batch["batch_size"] for batch in stats["batch_stats"]] == [3]
    everything = await client.get_inference_statistics()
    assert len(everything["model_stats"]) == 4


@pytest.mark.parametrize(
    ("model", "inputs", "options", "status", "message"),
    [
        ("none", [given(X)], {}, "404", "there is no model 'none'"),
        ("double", [given(X)], {"model_version": "7"}, "404", "has no version '7'; it has 1"),
        ("double", [given(X, "x")], {}, "400", "there is no input 'x'; there is input"),
        ("double", [given(X.T.copy())], {}, "422", "has shape [2, 3], not FP32 of shape [-1, 2]"),
        (
            "double",
            [given(X)],
            {"outputs": [InferRequestedOutput("x")]},
            "400",
            "there is no output 'x'; there is output",
        ),
        ("double", [given(X)], {"timeout": 1}, "504", "no answer within 1 ms"),
        ("double", [given(X)], {"sequence_id": 3}, "400", "keep nothing from one request"),
        ("tokens", [given(np.array([[1]]), "input_ids")], {}, "400", "'attention_mask' is missing"),
    ],
)
async def test_errors_say_what_is_wrong(client, model, inputs, options, status, message):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(model, inputs, **options)
    assert caught.value.status() == status
    assert message in caught.value.message()


async def test_what_is_not_there_says_so(client):
    for call in (client.get_trace_settings(), client.get_system_shared_memory_status()):
        with pytest.raises(InferenceServerException, match="there is no path /v2/"):
            await call


async def test_shared_memory_is_refused(client):
    tensor = InferInput("input", [3, 2], "FP32").set_shared_memory("region", X.nbytes)
    with pytest.raises(InferenceServerException, match="no shared memory with this server"):
        await client.infer("double", [tensor])


async def test_photos_to_labels(shipped):
    photos = np.array([[photo("coffee")], [photo("chelsea")]], dtype=object)
    metadata = await shipped.get_model_metadata("efficientnet-lite0")
    assert metadata["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1, 1]}]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 1000]}]
    result = await shipped.infer("efficientnet-lite0", [given(photos)])
    assert result.as_numpy("output").argmax(axis=1).tolist() == [967, 282]
    outputs = [InferRequestedOutput("output", class_count=3)]
    result = await shipped.infer("efficientnet-lite0", [given(photos)], outputs=outputs)
    classes = result.as_numpy("output")
    assert classes.shape == (2, 3)
    score, index, label = classes[0, 0].decode().split(":")
    assert (index, label) == ("967", "espresso")
    assert float(score) == pytest.approx(0.957, abs=0.002)
    assert classes[1, 0].endswith(b":282:tiger cat")


async def test_the_blocking_client(server: Client):
    def ask() -> Any:
        with blocking.InferenceServerClient(f"{server.host}:{server.port}") as client:
            assert client.is_server_ready()
            outputs = [InferRequestedOutput("output", binary_data=False, class_count=1)]
            classes = client.infer("double", [given(X)], outputs=outputs).as_numpy("output")
            pending = client.async_infer("double", [given(X)], timeout=60_000_000)
            with pytest.raises(InferenceServerException, match="there is no model 'none'"):
                client.infer("none", [given(X)])
            return classes, pending.get_result().as_numpy("output")

    classes, doubled = await asyncio.to_thread(ask)
    assert classes.tolist() == [["4:1"], ["8:1"], ["12:1"]]
    assert np.array_equal(doubled, 2 * X)
