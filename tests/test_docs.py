"""The documents are complete, and what they show is so."""

import asyncio
import importlib
import io
import json
import logging
import re
import runpy
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
import yaml
from aiohttp import FormData, web
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from batchserve import errors
from batchserve.app import build_app
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
from batchserve.json_log import JsonFormatter
from batchserve.metrics import Metrics
from batchserve.web.access_log import AccessLog
from batchserve.web.routes import ROUTES
from tests.conftest import ROOT, photo
from tests.web.clients import until

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
    ROOT / "benchmarks" / "README.md",
]


# In headings, GitHub drops all but these.
ANCHOR = re.compile(r"[^\w\- ]")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose_of(document: Path) -> str:
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


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


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)", prose_of(document), flags=re.MULTILINE)
    return {ANCHOR.sub("", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_links_lead_somewhere_for_those_who_read_on_github(document: Path):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)", document.read_text(encoding="utf-8"))
    for link in links:
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_no_row_of_a_table_is_there_twice(document: Path):
    text = document.read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        # Of what, or of which error, a row tells.
        begin = re.findall(r"^\| (`.*?\||\d{3} \| .*?\|)", table, flags=re.MULTILINE)
        assert len(set(begin)) == len(begin), table


def documented_fields(beginning: str) -> set[str]:
    """Return the names in the first table or sentence of the logs that begins so."""
    (section,) = re.findall(
        r"^## The logs\n(.*?)^## ", text_of("docs/operating.md"), flags=re.MULTILINE | re.DOTALL
    )
    part = section[section.index(beginning) :]
    rows = "".join(re.findall(r"^\| (`.*?) \|", part, flags=re.MULTILINE)) or part
    return set(re.findall(r"`(\w+)`", rows))


async def test_every_field_of_the_logs_is_documented_and_no_other(
    aiohttp_server, aiohttp_client, configure
):
    lines: list[str] = []
    server = await aiohttp_server(
        await build_app(configure(source="tests.models:Double", server={"torch_threads": 1})),
        access_log_class=AccessLog,
        access_log=SimpleNamespace(info=lines.append),
        access_log_format="json",
    )
    client = await aiohttp_client(server)
    await client.post("/predict", json={"input": [1.0]})
    await client.post("/predict", json={"input": "no numbers"})
    await until(lambda: len(lines) == 2)
    found = {name for line in lines for name in json.loads(line)}
    assert found == documented_fields("With `log_format: json`") - {"traceback"}


def test_every_field_of_the_servers_log_is_documented_and_no_other():
    try:
        raise ValueError
    except ValueError:
        failed = logging.LogRecord("x", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    found = set(json.loads(JsonFormatter().format(failed)))
    assert found == documented_fields("In the server's log:")


def test_pictures_are_small_enough_to_be_kept_in_git():
    pictures = [*(ROOT / "docs" / "images").iterdir()]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name


def test_the_pictures_of_batching_are_made_as_it_says():
    shown = fences(text_of("docs/batching.md"), "sh")
    making = ["make", "-n", "--no-print-directory", "--assume-old=.venv/installed", "pictures"]
    made = subprocess.run(making, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    commands = [line.removeprefix(".venv/bin/") for line in made.splitlines()]
    assert [f"{line}\n" for line in commands] == shown[0].splitlines(keepends=True)
    pictures = re.findall(r"--plot (\S+)", made)
    assert all((ROOT / picture).exists() for picture in pictures)
    assert len(pictures) == len(list((ROOT / "docs" / "images").glob("*.svg")))


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
        elif self.heading.startswith("A function"):
            monkeypatch.delitem(sys.modules, "made", raising=False)
            (folder / "made.py").write_text(self.saving, encoding="utf-8")
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
    Example("A function or a class"),
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


def test_the_model_of_torchvision_of_the_docs_is_a_valid_config():
    shown = Example("A model of torchvision").served
    model = Config.model_validate(shown).models[0]
    assert model.source.removeprefix("torchvision:") in torchvision.models.list_models()
    known = torchvision.models.get_model_weights(model.name).__members__
    assert shown["models"][0]["weights"] in known


async def test_the_first_model_of_ones_own_answers_as_shown(serve, tmp_path: Path, monkeypatch):
    document = text_of("docs/get-started.md")
    client = await serve(iris(document, tmp_path, monkeypatch))
    (asked,) = re.findall(r"-d '(\{.*\})'", document)
    answered = await (await client.post("/predict", json=json.loads(asked))).json()
    shown = json.loads(fences(document, "json")[-1])
    assert answered == {**shown, "output": pytest.approx(shown["output"], abs=1e-6)}


def iris(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch, place: int = 0) -> Config:
    """Return a config of a document for the model of docs/get-started.md, saved in a folder."""
    module = fences(text_of("docs/get-started.md"), "python")[0]
    (folder / "iris.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("iris", "iris_task"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    # Training itself leaves no trace.
    with torch.random.fork_rng():
        runpy.run_path("iris.py", run_name="__main__")
    described = yaml.safe_load(fences(document, "yaml")[place])
    return Config.model_validate(described, context={"folder": folder})


async def test_the_handler_of_torchserve_answers_as_a_task(serve, tmp_path: Path, monkeypatch):
    document = text_of("docs/moving-from-torchserve.md")
    (task,) = fences(document, "python")
    (tmp_path / "iris_task.py").write_text(task, encoding="utf-8")
    client = await serve(iris(document, tmp_path, monkeypatch, place=1))
    (asked,) = re.findall(r"-d '(\{.*\})'", document)
    response = await client.post("/predictions/iris", json=json.loads(asked))
    assert await response.text() in fences(document, "json")[1]
    refused = await client.post("/predictions/iris", json={"sepal": [5.1, 3.5]})
    assert refused.status == 400


def test_torchserves_names_of_classes_become_labels(tmp_path: Path):
    names = {"10": ["n02", "ten"], "0": ["n00", "nought"], "1": "one"}
    (tmp_path / "index_to_name.json").write_text(json.dumps(names))
    command = fences(text_of("docs/moving-from-torchserve.md"), "sh")[1]
    command = command.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "labels.json").read_text()) == ["nought", "one", "ten"]


def flowers(folder: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> Config:
    """Return the config of docs/moving-from-flask.md, with an untrained model, in a folder."""
    document = text_of("docs/moving-from-flask.md")
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), folder / "flowers.pt")
    (folder / "labels.txt").write_text("daisy\nrose\ntulip\n")
    (folder / "as_before.py").write_text(fences(document, "python")[1], encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    described = yaml.safe_load(fences(document, "yaml")[0])
    described["models"][0] |= {"task": task, "batching": {"max_batch_size": 1}}
    return Config.model_validate(described, context={"folder": folder})


async def test_the_client_of_a_flask_tutorial_works(serve, tmp_path: Path, monkeypatch):
    client = await serve(flowers(tmp_path, monkeypatch, task="as_before:AsBefore"))
    form = FormData()
    form.add_field("file", photo("coffee"), filename="photo.png")
    answered = await (await client.post("/predict", data=form)).json()
    bare = await (await client.post("/predictions/flowers", data=photo("coffee"))).json()
    assert answered["output"] == bare
    assert ["daisy", "rose", "tulip"][bare["class_id"]] == bare["class_name"]


async def test_the_client_of_clipper_works(serve, tmp_path: Path, monkeypatch):
    document = text_of("docs/moving-from-clipper.md")
    module, program = fences(document, "python")
    (tmp_path / "feature_sum.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    described = yaml.safe_load(fences(document, "yaml")[0])
    # Only a busy machine would take so long.
    described["endpoints"][0]["slo_ms"] = 20_000
    client = await serve(Config.model_validate(described, context={"folder": tmp_path}))
    program = program.replace("http://127.0.0.1:1337", str(client.make_url("")).rstrip("/"))
    printed = io.StringIO()
    await asyncio.to_thread(exec, program, {"print": partial(print, file=printed)})
    numbers = partial(re.sub, r"'query_id': \d+", "")
    assert f"```\n{numbers(printed.getvalue())}```" in numbers(document)


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
