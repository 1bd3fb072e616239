"""The wheel, built from the source distribution and installed elsewhere, without the checkout."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from batchserve import __version__
from tests.conftest import ROOT
from tests.e2e.conftest import Server, kill, start
from tests.ports import free_port

pytestmark = pytest.mark.e2e

ABOUT = """
import json, sys
from importlib.metadata import distribution, entry_points
from importlib.resources import files
import batchserve, batchserve.cli
own = distribution("batchserve")
print(json.dumps({
    "file": batchserve.__file__,
    "version": own.version,
    "metadata": own.metadata.json,
    "static": sorted(file.name for file in (files("batchserve") / "web/static").iterdir()),
    "typed": (files("batchserve") / "py.typed").is_file(),
    "path": sys.path,
}))
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Installed:
    """A virtual environment with the wheel, and with the libraries of the one that runs this."""

    wheel: Path
    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv/bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-d", folder, "-t"]
    run(*build, "sdist", cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run(*build, "wheel", cwd=folder / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")

    python = folder / "venv/bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # Torch is too large to be installed once more. Of a folder that is named like this, the .pth
    # files are not read, and so not the one that would lead to this checkout.
    (site,) = (folder / "venv/lib").glob("python3*/site-packages")
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)), encoding="utf-8")
    return Installed(wheel, folder)


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "batchserve",
        f"batchserve-{__version__}.dist-info",
    }
    package = ROOT / "batchserve"
    files = {
        str(file.relative_to(ROOT))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if name.startswith("batchserve/")} == files
    licences = [name for name in names if ".dist-info/licenses/" in name]
    assert sorted(Path(name).name.split("-")[0] for name in licences) == ["LICENSE", "uplot"]


def test_it_is_imported_from_where_it_was_installed(installed, tmp_path):
    about = json.loads(run(installed.bin / "python", "-I", "-c", ABOUT, cwd=tmp_path))
    assert Path(about["file"]).is_relative_to(installed.folder / "venv")
    assert str(ROOT) not in about["path"]
    assert about["version"] == __version__
    assert about["typed"]
    assert about["static"] == sorted(
        each.name for each in (ROOT / "batchserve/web/static").iterdir()
    )
    metadata = about["metadata"]
    assert metadata["license_expression"] == "Apache-2.0 AND MIT"
    assert "Typing :: Typed" in metadata["classifier"]
    assert metadata["description"].startswith("# batchserve")
    assert set(metadata["provides_extra"]) >= {"demo", "otel", "plot"}


@pytest.fixture
def server(installed, tmp_path) -> Iterator[Server]:
    """Return a server started by the wheel's own command, far from the checkout."""
    (tmp_path / "mine.py").write_text("from torch.nn import Identity as Mine", encoding="utf-8")
    bind = f"127.0.0.1:{free_port()}"
    config = {
        "server": {"bind": bind, "grace_seconds": 0},
        "models": [{"name": "mine", "source": "mine:Mine"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    server = start(
        [str(installed.bin / "batchserve"), "serve"], tmp_path, f"http://{bind}", PYTHONPATH=""
    )
    server.wait_ready()
    yield server
    kill(server)


def test_it_serves(server):
    assert server.post(json={"input": [1, 2]}).json()["output"] == [1.0, 2.0]
    assert "<html" in server.get("/").text
    assert "<html" in server.get("/docs").text
    assert server.get("/openapi.json").json()["info"]["version"] == __version__
    assert "batchserve_workers 1.0" in server.get("/metrics").text
    assert server.stop() == 0
    assert "Traceback" not in server.output()
