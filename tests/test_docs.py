"""The documents are complete, and what they show is so."""

import asyncio
import importlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from aiohttp import FormData, web
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from batchserve import errors
from batchserve.app import ROUTES
from batchserve.config import (
    BatchingConfig,
    CandidateConfig,
    Config,
    EndpointConfig,
    FetchConfig,
    ImageConfig,
    ModelConfig,
    ServerConfig,
    TlsConfig,
)
from batchserve.metrics import Metrics
from tests.conftest import ROOT, photo

# By the headings of docs/configuration.md.
SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerConfig,
    "fetch": FetchConfig,
    "tls": TlsConfig,
    "models": ModelConfig,
    "image": ImageConfig,
    "candidate": CandidateConfig,
    "batching": BatchingConfig,
    "endpoints": EndpointConfig,
}
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").glob("*/README.md"),
]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def all_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from all_subclasses(subclass)


@pytest.mark.parametrize(("heading", "section"), SECTIONS.items())
def test_every_config_key_is_documented_with_its_default(heading: str, section: type[BaseModel]):
    (documented,) = re.findall(
        rf"^##+ {heading}\n(.*?)(?=^##+ |\Z)",
        text_of("docs/configuration.md"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for name, field in section.model_fields.items():
        row = re.search(rf"^\| `{name}` \| (.*?) \|", documented, flags=re.MULTILINE)
        assert row is not None, f"{section.__name__}.{name} is missing"
        if field.is_required() or isinstance(field.default, BaseModel):
            continue
        shown = yaml.safe_load(row[1].strip("`") or "null")
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert shown == default, f"{section.__name__}.{name}"


def test_no_config_key_is_documented_that_does_not_exist():
    sections: list[type[BaseModel]] = [Config, *SECTIONS.values()]
    known = {name for section in sections for name in section.model_fields}
    rows = re.findall(r"^\| `(\w+)` \|", text_of("docs/configuration.md"), flags=re.MULTILINE)
    assert set(rows) <= known


def test_every_error_is_documented_with_its_status():
    rows = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text_of("docs/http.md"), re.MULTILINE))
    raised = {
        (str(kind.status), kind.code)
        for kind in all_subclasses(errors.RequestError)
        if issubclass(kind, errors.RequestError) and kind is not errors.Unavailable
    }
    assert rows == raised


def test_every_metric_is_documented_and_no_other():
    documented = set(
        re.findall(r"^\| `(batchserve_\w+)` \|", text_of("docs/operating.md"), re.MULTILINE)
    )
    families = text_string_to_metric_families(Metrics().exposition().decode())
    defined = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in families
    }
    assert documented == defined


def test_every_route_is_documented():
    documented = text_of("docs/http.md")
    for route in ROUTES:
        if isinstance(route, web.RouteDef):
            assert f"`{route.path}`" in documented or f" {route.path}`" in documented, route.path


def test_every_module_has_its_line_in_the_architecture():
    rows = set(re.findall(r"^\| `([\w/]+\.py)` \|", text_of("docs/architecture.md"), re.MULTILINE))
    package = ROOT / "batchserve"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert rows == {name for name in modules if not name.endswith("__init__.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    for link in links:
        assert (document.parent / link).exists(), link


def test_pictures_are_small_enough_to_be_kept_in_git():
    pictures = [*(ROOT / "docs" / "images").iterdir()]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name


def test_the_readmes_config_is_valid_and_its_commands_exist(tmp_path: Path):
    readme = text_of("README.md")
    (shown,) = fences(readme, "yaml")
    config = Config.model_validate(yaml.safe_load(shown), context={"folder": tmp_path})
    assert config.models[0].task == "image-classification"
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), flags=re.MULTILINE)
    commands = [line for fence in fences(readme, "sh") for line in fence.splitlines()]
    made = [line.split()[1] for line in commands if line.startswith("make ")]
    assert made == ["serve", "test"]
    assert set(made) <= set(targets)


class Example:
    """A section of docs/models.md: how to save the model, and how to serve it."""

    def __init__(self, heading: str, place: int = 0) -> None:
        self.heading = heading
        sections = re.split(r"^## ", text_of("docs/models.md"), flags=re.MULTILINE)
        (text,) = (section for section in sections if section.startswith(f"{heading}\n"))
        self.saving = [*fences(text, "python"), ""][place]
        self.served = yaml.safe_load(fences(text, "yaml")[place])

    def save(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
        """Do what the section says, in a folder, and return the model that it saves."""
        (net,) = (
            part for part in fences(text_of("docs/models.md"), "python") if "# net.py" in part
        )
        (folder / "net.py").write_text(net, encoding="utf-8")
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "net", raising=False)
        model: torch.nn.Module = importlib.import_module("net").Net().eval()
        exec(Example("Weights").saving, {"torch": torch, "model": model})
        if self.heading.startswith("A zip"):
            (folder / "model.py").write_text(self.saving, encoding="utf-8")
            (folder / "net.pt").rename("weights.pt")
            with zipfile.ZipFile("project.zip", "w") as archive:
                for name in ("net.py", "model.py", "weights.pt"):
                    archive.write(name)
        else:
            exec(self.saving, {"torch": torch, "model": model})
        return model


EXAMPLES = [
    Example("Weights"),
    Example("Weights", 1),
    Example("TorchScript"),
    Example("Programs of torch.export"),
    Example("Whole modules"),
    Example("A zip of a project"),
    Example("Quantising"),
]


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
async def test_each_way_to_serve_a_model_of_the_docs_works(
    serve, tmp_path: Path, monkeypatch, example: Example
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = await asyncio.to_thread(example.save, tmp_path, monkeypatch)
    client = await serve(Config.model_validate(example.served, context={"folder": tmp_path}))
    batch = torch.randn(3, 3, 8, 8)
    response = await client.post("/predict", json={"inputs": batch.tolist()})
    outputs = torch.tensor((await response.json())["outputs"])
    tolerance = 0.02 if example.heading == "Quantising" else 1e-5
    torch.testing.assert_close(outputs, model(batch), rtol=0, atol=tolerance)


async def test_the_task_of_the_docs_works(serve, configure, tmp_path: Path, monkeypatch):
    document = text_of("docs/tasks.md")
    (tmp_path / "letters.py").write_text(fences(document, "python")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    shown = yaml.safe_load(fences(document, "yaml")[0])
    client = await serve(Config.model_validate(shown, context={"folder": tmp_path}))
    response = await client.post("/predict", json={"input": "Hello"})
    output = (await response.json())["output"]
    assert {letter: count for letter, count in output.items() if count} == {
        "h": 1.0,
        "e": 1.0,
        "l": 2.0,
        "o": 1.0,
    }
    refused = await client.post("/predict", json={"input": "two words"})
    assert refused.status == 422
    assert "not one word" in (await refused.json())["error"]


async def test_the_task_for_sequences_of_the_docs_works(serve, tmp_path: Path, monkeypatch):
    shown = fences(text_of("docs/tasks.md"), "python")[1]
    (tmp_path / "sentiment.py").write_text(shown, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    client = await serve(
        name="sentiment", source="sentiment:MeanOfLetters", task="sentiment:Sentiment"
    )
    body = {"inputs": ["a", "ab", "", "a" * 100]}
    response = await client.post("/predict", json=body)
    assert (await response.json())["outputs"] == [97.0, 97.5, 0.0, 97.0]


async def test_the_binary_client_of_the_docs_works(serve):
    document = text_of("docs/http.md")
    (program,) = fences(document, "python")
    client = await serve(
        name="double", source="tests.models:Double", input_shape=[2], server={"torch_threads": 1}
    )
    program = program.replace("http://127.0.0.1:8000", str(client.make_url("")).rstrip("/"))
    printed = io.StringIO()

    def run() -> None:
        exec(program, {"print": partial(print, file=printed)})

    await asyncio.to_thread(run)
    assert f"```\n{printed.getvalue()}```" in document


async def test_the_endpoint_of_the_docs_answers_as_shown(serve):
    document = text_of("docs/endpoints.md")
    (shown,) = fences(document, "yaml")
    described = {**yaml.safe_load(shown), "server": {"torch_threads": 1}}
    # Only a busy machine would take so long.
    described["endpoints"][0]["slo_ms"] = 20_000
    described["models"][0]["batching"] = {"max_batch_size": 1}
    client = await serve(Config.model_validate(described))
    answers = [json.loads(answer) for answer in fences(document, "json")]
    coffee = photo("coffee")
    for answer, timeout_ms in zip(answers, ("20000", "1"), strict=True):
        form = FormData()
        form.add_field("file", coffee, filename="coffee.png")
        headers = {"X-Request-Timeout-Ms": timeout_ms}
        response = await client.post("/photos/predict?top_k=1", data=form, headers=headers)
        found = await response.json()
        assert isinstance(found.pop("query_id"), int)
        del answer["query_id"]
        for one in (*found["output"], *answer["output"]):
            one["score"] = pytest.approx(one["score"], abs=1e-4)
        assert found == answer


def test_the_fetching_of_the_docs_is_a_valid_config():
    (shown,) = fences(text_of("docs/http.md"), "yaml")
    fetch = ServerConfig.model_validate(yaml.safe_load(shown)["server"]).fetch
    assert fetch.hosts == ("localhost:8001",)
    assert [str(network) for network in fetch.networks] == ["127.0.0.0/8"]


async def test_the_task_with_named_tensors_of_the_docs_works(serve, tmp_path: Path, monkeypatch):
    shown = fences(text_of("docs/tasks.md"), "python")[2]
    (tmp_path / "pairs.py").write_text(shown, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    client = await serve(name="pairs", source="pairs:Product", task="pairs:Pairs")
    vectors = {"left": [1, 2, 3, 0, 0, 1], "right": [4, 5, 6, 0, 0, 2]}
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [2, 3], "data": data}
        for name, data in vectors.items()
    ]
    response = await client.post("/v2/models/pairs/infer", json={"inputs": inputs})
    (output,) = (await response.json())["outputs"]
    assert output["data"] == [32.0, 2.0]
    response = await client.post("/predict", json={"input": [[1, 2, 3], [4, 5, 6]]})
    assert (await response.json())["output"] == 32.0


async def test_the_tests_of_the_docs_pass(tmp_path: Path, monkeypatch):
    _, sentiment, _, tests = fences(text_of("docs/tasks.md"), "python")
    (tmp_path / "sentiment.py").write_text(sentiment, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sentiment", raising=False)
    shown: dict[str, Any] = {}
    exec(tests, shown)
    shown["test_my_task"]()
    await shown["test_my_model_over_http"]()
