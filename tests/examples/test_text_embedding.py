"""The example for texts, with the real model."""

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from batchserve.testing import check_task, serving
from batchserve.testing.serving import Client
from tests.examples.transcripts import EXAMPLES, transcripts

EXAMPLE = EXAMPLES / "text_embedding"
CAT, KITTEN, STOCKS = "a cat sits on the mat", "a kitten rests on the rug", "stock prices fell"
LONG = "All happy families are alike. " * 2000
TEXTS = [CAT, KITTEN, STOCKS, "", "x", "Ünïcödé, 日本語 and 🐈", "word " * 30, "word " * 100, LONG]

# One loop for all, because the model takes seconds to load.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def example() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        import text_embedding  # noqa: PLC0415 - from where the path leads now

        yield text_embedding


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> Any:
    async with serving(EXAMPLE / "config.yaml") as client:
        yield client


async def embed(client: Client, texts: list[str]) -> Any:
    response = await client.post("/predict", json={"inputs": texts})
    assert response.status == 200, await response.text()
    return np.array((await response.json())["outputs"])


async def test_texts_of_like_meaning_are_near(client: Client):
    cat, kitten, stocks = await embed(client, [CAT, KITTEN, STOCKS])
    assert cat @ kitten > 0.5
    assert cat @ kitten > cat @ stocks + 0.3


async def test_the_vectors_are_those_of_sentence_transformers(client: Client, example: ModuleType):
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - 3 s

    reference = SentenceTransformer(str(example.MODEL_DIR), device="cpu")
    expected = reference.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(await embed(client, TEXTS), expected, atol=1e-5)


async def test_in_a_batch_of_mixed_lengths_a_text_has_the_vector_that_it_has_alone(client: Client):
    texts = ["word " * length for length in range(1, 30)]
    together = await embed(client, texts)
    alone = np.concatenate([await embed(client, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


async def test_texts_of_like_length_share_a_pass(client: Client):
    response = await client.post("/predict", json={"inputs": [CAT, KITTEN, STOCKS, ""]})
    assert response.headers["X-Batch-Size"] == "4"


async def test_of_a_long_text_the_beginning_counts(client: Client, example: ModuleType):
    one, other = await embed(client, [LONG + CAT, LONG + STOCKS])
    assert (one == other).all()
    assert len(example.TextEmbedding().decode(LONG)) == example.LONGEST


@pytest.mark.parametrize("wrong", [7, None, [CAT], {"text": CAT}, True])
async def test_what_is_no_text_is_refused(client: Client, wrong: Any):
    response = await client.post("/predict", json={"input": wrong})
    assert response.status == 400
    assert await response.json() == {
        "error": "input: Input should be a valid string",
        "code": "bad_request",
    }


async def test_a_book_is_refused(client: Client):
    response = await client.post("/predict", json={"input": "a" * 100_001})
    assert response.status == 400
    assert "at most 100000 characters" in (await response.json())["error"]


async def test_the_readme_shows_what_is_answered(client: Client):
    (shown,) = transcripts(EXAMPLE / "README.md")
    response = await client.post(shown.path, json=shown.body)
    answered = await response.text()
    # Cut off, as the command says; the last number may have lost digits.
    assert answered.startswith(shown.answer.partition("[")[0])
    *numbers, _ = re.findall(r"-?\d\.\d+", shown.answer)
    assert len(numbers) >= 3
    vectors = np.ravel((await response.json())["output"])
    assert [float(number) for number in numbers] == pytest.approx(vectors[: len(numbers)], abs=1e-4)


async def test_it_keeps_what_a_server_relies_on(example: ModuleType):
    task, module = example.TextEmbedding(), example.MiniLM()
    vectors = check_task(task, TEXTS, module, refused=[7, None, [CAT]])
    assert [len(vector) for vector in vectors] == [384] * len(TEXTS)
