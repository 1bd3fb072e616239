"""The example for tables: trained here, and served."""

import importlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from typer.testing import CliRunner

from batchserve.cli import main
from batchserve.errors import LoadError
from batchserve.testing import check_task, serving
from tests.examples.transcripts import EXAMPLES, transcripts

EXAMPLE = EXAMPLES / "recommendation"
FILE = {"kind": "test", "lines": 500, "classes": 8, "imports": ["asyncio", "socket"]}
STEPS = 150
AT_ONCE = 200


class Trained(NamedTuple):
    """A copy of the example, after training, with its two Python modules."""

    folder: Path
    train: Any
    recommender: Any
    training: list[Any]
    held_out: list[Any]

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("example")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        train, recommender = map(importlib.import_module, ("train", "recommender"))
        files = [file for source in train.FOLDERS for file in train.files_in(source)]
        training, held_out = train.split(files)
        torch.set_num_threads(1)
        train.save(*train.train(training, STEPS))
        yield Trained(folder, train, recommender, training, held_out)
    del sys.modules["train"], sys.modules["recommender"]


async def test_served_recommendations_hit_what_was_hidden(trained: Trained):
    """Of files that training has not seen; chance would be 5 of some 130 modules."""
    task = trained.recommender.NextModule()
    cases = trained.train.hide_one_import(task, trained.held_out)
    cases = random.Random(0).sample(cases, min(len(cases), 3 * AT_ONCE))
    inputs = [file.model_dump() for file, _ in cases]
    recommended: list[list[str]] = []
    async with serving(trained.config) as client:
        for begin in range(0, len(inputs), AT_ONCE):
            body = {"inputs": inputs[begin : begin + AT_ONCE]}
            response = await client.post("/predict", json=body)
            outputs = (await response.json())["outputs"]
            recommended += [[one["module"] for one in output] for output in outputs]
    hits = trained.train.hit_rate(cases, recommended)
    popular = trained.train.most_popular(trained.training, cases)
    assert hits > 0.5
    assert hits > trained.train.hit_rate(cases, popular) + 0.05


async def test_what_is_there_is_not_recommended_and_the_best_comes_first(trained: Trained):
    async with serving(trained.config) as client:
        response = await client.post("/predict?top_k=1000", json={"input": FILE})
        output = (await response.json())["output"]
        named = [one["module"] for one in output]
        assert named[0] == "unittest"
        assert not {"asyncio", "socket"} & set(named)
        scores = [one["score"] for one in output]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=0.02)


async def test_a_wrong_column_is_named(trained: Trained):
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"kind": "script"}, 400, "input.kind: Input should be 'module', 'package' or 'test'"),
        ({"lines": 0}, 400, "input.lines: Input should be greater than or equal to 1"),
        ({"lines": 10**30}, 400, "input.lines: Input should be less than or equal to 1000000"),
        ({"lines": "many"}, 400, "input.lines: Input should be a valid integer"),
        ({"imports": "os"}, 400, "input.imports: Input should be a valid array"),
        ({"imports": ["numpy"]}, 422, "imports: 'numpy' is none of the "),
    ]
    async with serving(trained.config) as client:
        for change, status, error in wrong:
            response = await client.post(
                "/predict",
                data=json.dumps({"input": {**FILE, **change}}),
                headers={"Content-Type": "application/json"},
            )
            assert response.status == status
            assert (await response.json())["error"].startswith(error)


async def test_the_readme_shows_what_is_answered(trained: Trained):
    """What exactly is learnt depends on the versions of Python and torch."""
    (shown,) = transcripts(EXAMPLE / "README.md")
    expected = json.loads(shown.answer)
    async with serving(trained.config) as client:
        response = await client.post(shown.path, json=shown.body)
        answer = await response.json()
    assert {**answer, "output": None} == {**expected, "output": None}
    assert [one.keys() for one in answer["output"]] == [one.keys() for one in expected["output"]]
    assert answer["output"][0]["module"] == expected["output"][0]["module"] == "unittest"


def test_it_keeps_what_a_server_relies_on(trained: Trained):
    task, model = trained.train.train(trained.training, 10)
    payloads = [
        FILE,
        {**FILE, "imports": []},
        {**FILE, "kind": "module", "lines": 10**6},
        {**FILE, "imports": task.modules},
    ]
    refused: list[Any] = [
        None,
        [],
        "os",
        {},
        {**FILE, "imports": ["numpy"]},
        {**FILE, "kind": "script"},
    ]
    answers = check_task(task, payloads, model, refused=refused, parameters={"top_k": "3"})
    assert [len(answer) for answer in answers] == [3, 3, 3, 0]


def test_batchserve_check_loads_it(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    result = CliRunner().invoke(main, ["check", str(trained.config)])
    assert "OK, every model has been loaded." in result.output
    assert result.exit_code == 0


async def test_without_training_it_says_what_to_do(trained: Trained, monkeypatch, tmp_path):
    monkeypatch.setattr(trained.recommender, "VOCABULARY", tmp_path / "modules.json")
    with pytest.raises(LoadError, match=r"modules.json is not there; train.py, beside it,"):
        async with serving(trained.config):
            pass


def test_training_reports_its_hit_rate(trained: Trained, monkeypatch, tmp_path, capsys):
    stdlib, _ = trained.train.FOLDERS
    few = [stdlib / name for name in ("asyncio", "email", "importlib", "multiprocessing")]
    monkeypatch.setattr(trained.train, "FOLDERS", few)
    monkeypatch.setattr(trained.train, "VOCABULARY", tmp_path / "trained" / "modules.json")
    monkeypatch.setattr(sys, "argv", ["train.py", "--steps", "3"])
    trained.train.main()
    assert "; of what is most popular: " in capsys.readouterr().out
    weights = torch.load(tmp_path / "trained" / "weights.pt", weights_only=True)
    modules = json.loads((tmp_path / "trained" / "modules.json").read_text())
    assert weights["candidates.weight"].shape == (len(modules), 32)


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        ("import os", {"os"}),
        ("import os.path as p, sys\n    import json  # , re", {"os", "sys", "json"}),
        ("from collections.abc import Iterator\nfrom . import re", {"collections"}),
        ("import numpy\nimport _thread\nimportant = re", set()),
    ],
)
def test_imports_are_found(trained: Trained, text: str, imports: set[str]):
    assert trained.train.imports_of(text) == imports
