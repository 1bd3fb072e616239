"""deploy/systemd: systemd reads the units, finds them tight, and they fit the defaults."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batchserve.config import ServerConfig
from batchserve.gunicorn_settings import stop_seconds
from tests.conftest import ROOT

UNITS = ROOT / "deploy/systemd"
# Of systemd's own scale from 0, the tightest, to 10: below 2 it says OK.
EXPOSURE = 20


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a folder with the units, whose program exists."""
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/batchserve/bin/batchserve", "/bin/sh")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    dropins = tmp_path / "batchserve.service.d"
    dropins.mkdir()
    (tmp_path / "gpu.conf").rename(dropins / "gpu.conf")
    return tmp_path


def analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        message = "systemd-analyze is not installed (Debian: apt-get install systemd)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_reads_the_units(units):
    files = [str(units / f"batchserve.{kind}") for kind in ("service", "socket")]
    assert "batchserve" not in analyze("verify", "--man=no", *files)


def test_the_service_is_confined(units):
    (units / "batchserve.service.d/gpu.conf").unlink()
    service = str(units / "batchserve.service")
    analyze("security", "--offline=true", f"--threshold={EXPOSURE}", service)


def test_a_stop_gets_the_time_that_it_may_take():
    service = (UNITS / "batchserve.service").read_text(encoding="utf-8")
    (given,) = re.findall(r"^TimeoutStopSec=(\d+)$", service, flags=re.MULTILINE)
    assert int(given) > stop_seconds(ServerConfig())
