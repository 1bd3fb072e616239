"""`batchserve check`, as people use it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from batchserve.cli import main
from tests.loading.served import serving

Check = Callable[[str], Result]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that checks a config with one model, described in YAML."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)

    def call(described: str) -> Result:
        path = tmp_path / "config.yaml"
        path.write_text(f"models: [{{name: tiny, device: cpu, {described}}}]", encoding="utf-8")
        return CliRunner().invoke(main, ["check", str(path)])

    return call


@pytest.mark.parametrize("method", ["int8-dynamic", "int8-weight-only"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantising_is_reported(check: Check, tmp_path: Path, method: str):
    (tmp_path / "wide.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(512, 1000))"
    )
    result = check(f"source: 'wide:build', quantize: {method}, batching: {{max_batch_size: 2}}")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if method in line)
    assert "2.1 → 0.5" in row
    assert "≤ 0.0" in row
    assert "of up to" in row
    assert "1: " in row
    assert "8: " in row
    assert "OK" in result.output


def test_without_quantising_nothing_is_said_of_it(check: Check):
    result = check("source: 'tests.models:tiny', batching: {max_batch_size: 2}")
    assert result.exit_code == 0
    assert "quantised" not in result.output


def test_a_url_is_fetched_once_for_all(check: Check, tmp_path: Path):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "model.pt")
    (tmp_path / "small.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(3, 2)"
    )
    with serving() as site:
        url = site.put("model.pt", (tmp_path / "model.pt").read_bytes())
        result = check(f"source: '{url}', architecture: 'small:build'")
        assert result.exit_code == 0, result.output
        assert len(site.requests) == 1


def test_a_url_that_does_not_answer_is_told(check: Check):
    with serving() as site:
        result = check(f"source: 'http://127.0.0.1:{site.port}/model.pt'")
    assert result.exit_code == 1
    assert "was answered with 404 Not Found; check the address" in result.output
