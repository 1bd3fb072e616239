"""An environment of its own for each peer, in which torch is the one that is installed here.

    ~/.cache/batchserve-bench/PEER        or below the folder that BATCHSERVE_BENCH_CACHE names

A `.pth` file puts our site-packages behind the peer's own: what it asks for in another version is
installed there, and torch is not installed seven times.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = Path(os.environ.get("BATCHSERVE_BENCH_CACHE", "~/.cache/batchserve-bench")).expanduser()
PATIENCE_S = 900


class NotInstalled(Exception):
    """A peer could not be installed; the message is what pip said last."""


def python_of(peer: str | None) -> Path:
    """Return the Python of a peer, installed first if need be; None: ours.

    Raises:
        NotInstalled: pip could not.
    """
    if peer is None:
        return Path(sys.executable)
    wanted = (REQUIREMENTS / f"{peer}.txt").read_text(encoding="utf-8")
    folder = CACHE / peer
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == _stamp(wanted)):
        _install(peer, folder, python)
        stamp.write_text(_stamp(wanted), encoding="utf-8")
    return python


def _stamp(wanted: str) -> str:
    return f"# beside {sysconfig.get_path('purelib')}\n{wanted}"


def _install(peer: str, folder: Path, python: Path) -> None:
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    own = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (own / "behind.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "-r", str(REQUIREMENTS / f"{peer}.txt")])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.CalledProcessError as error:
        raise NotInstalled("\n".join(error.stderr.splitlines()[-5:])) from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"pip took longer than {PATIENCE_S} s") from None


def version_of(peer: str | None, package: str) -> str:
    """Return which version of a package a peer's Python finds."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    command = [str(python_of(peer)), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
