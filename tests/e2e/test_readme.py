"""The README's first screen is so."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from batchserve.demo import write_photos
from tests.test_docs import fences, text_of

pytestmark = pytest.mark.e2e


def test_its_curl_gives_its_answer(shipped, tmp_path: Path):
    readme = text_of("README.md")
    command = next(fence for fence in fences(readme, "sh") if fence.startswith("curl "))
    shown = json.loads(fences(readme, "json")[0])
    write_photos(tmp_path / "photos")
    arguments = shlex.split(command.replace("http://127.0.0.1:8000", shipped.base))
    printed = subprocess.run([*arguments, "-sS"], cwd=tmp_path, capture_output=True, check=True)
    answer = json.loads(printed.stdout)
    assert {**answer, "output": None} == {**shown, "output": None}
    for given, expected in zip(answer["output"], shown["output"], strict=True):
        assert given == {**expected, "score": pytest.approx(expected["score"], abs=0.002)}
