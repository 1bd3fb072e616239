"""What the examples' READMEs show, asked again."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.test_docs import fences

EXAMPLES = ROOT / "examples"
SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Transcript:
    """A `curl` and the answer below it, which may be cut off."""

    path: str
    body: Any
    answer: str


def transcripts(readme: Path) -> list[Transcript]:
    """Return each `curl` of a README with its answer, in order."""
    text = readme.read_text(encoding="utf-8")
    curls = [fence for fence in fences(text, "sh") if fence.startswith("curl ")]
    return [
        Transcript(*_request(curl), answer)
        for curl, answer in zip(curls, fences(text, "json"), strict=True)
    ]


def _request(curl: str) -> tuple[str, Any]:
    words = shlex.split(curl)
    path = next(word for word in words if word.startswith(SERVER)).removeprefix(SERVER)
    assert "Content-Type: application/json" in words
    return path, json.loads(words[words.index("-d") + 1])
