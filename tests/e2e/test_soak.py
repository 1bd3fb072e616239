"""A short soak: whatever clients do and whichever worker is killed, no answer is lost or wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.e2e


def test_a_short_soak(tmp_path: Path):
    command = [sys.executable, str(ROOT / "benchmarks/soak.py")]
    options = ["--minutes", "0.25", "--kill-every", "2"]
    environ = {"TMPDIR": str(tmp_path), "PATH": "", "COLUMNS": "150"}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: 0" in done.stdout
    assert "wrong: 0" in done.stdout
    assert "workers killed 0" not in done.stdout
