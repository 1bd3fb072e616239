"""How the shipped model is served here: time to ready, throughput, batch sizes, memory.

    python benchmarks/shipped_model.py [--seconds 20] [--workers 1]

Starts `batchserve serve` on a free port, and loads it with wrk (`-t1 -c16`) and ab
(`-n 500 -c 16`), both posting a JPEG in base64 in JSON. Machines differ and are noisy: compare
figures of one run only.
"""

import argparse
import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import skimage.data
from PIL import Image
from rich.console import Console

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
console = Console(soft_wrap=True, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=20, help="of wrk's load")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    missing = [tool for tool in ("wrk", "ab") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: apt-get install wrk apache2-utils)")
    with tempfile.TemporaryDirectory() as folder:
        body = write_body(Path(folder))
        run(options.workers, options.seconds, body)


def run(workers: int, seconds: int, body: Path) -> None:
    """Start the server, load it, print what is seen, stop it."""
    bind = f"127.0.0.1:{free_port()}"
    started_s = time.monotonic()
    server = subprocess.Popen(
        [BIN / "batchserve", "serve", ROOT / "config.yaml"],
        env={
            **os.environ,
            "BATCHSERVE_SERVER__BIND": bind,
            "BATCHSERVE_SERVER__WORKERS": str(workers),
            "BATCHSERVE_SERVER__ACCESSLOG": "null",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{bind}/predict"
    try:
        with console.status("starting the server …"):
            # The first answer waits until a worker accepts connections.
            wait_until_ready(bind, server)
            console.print(f"ready after          {time.monotonic() - started_s:8.1f} s")
        console.print(
            f"memory when ready    {memory_mb(server.pid):8.0f} MB (PSS of all processes)"
        )
        with console.status(f"wrk -t1 -c16 -d{seconds}s …"):
            command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--timeout", "30s", "--latency"]
            printed = call(*command, "-s", str(ROOT / "benchmarks/post.lua"), url, str(body))
        console.print(found(r"Requests/sec: .*|  +50% .*|  +99% .*|Non-2xx.*|Socket .*", printed))
        with console.status("ab -n 500 -c 16 …"):
            command = ["ab", "-l", "-n", "500", "-c", "16", "-T", "application/json"]
            printed = call(*command, "-p", str(body), url)
        console.print(found(r"(?:Complete|Failed|Non-2xx|Requests per).*", printed))
        console.print(f"memory after load    {memory_mb(server.pid):8.0f} MB")
        metrics = get(f"http://{bind}/metrics")
        console.print(found(r"batchserve_(?:batches_total|batch_size_(?:sum|count))\{.*", metrics))
    finally:
        server.terminate()
        server.wait()


def write_body(folder: Path) -> Path:
    """Write a photo of some 50 KB as JPEG, base64, JSON."""
    file = io.BytesIO()
    photo = skimage.data.chelsea()  # type: ignore[no-untyped-call]
    Image.fromarray(photo).save(file, "JPEG", quality=95)
    path = folder / "body.json"
    path.write_bytes(b'{"input": "' + base64.b64encode(file.getvalue()) + b'"}')
    return path


def wait_until_ready(bind: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            get(f"http://{bind}/readyz")
        except OSError:
            if server.poll() is not None:
                sys.exit("the server could not start; run `batchserve serve` to see why")
            time.sleep(0.05)
        else:
            return


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        text: str = response.read().decode()
        return text


def call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def found(pattern: str, text: str) -> str:
    return "\n".join(re.findall(pattern, text))


def memory_mb(pid: int) -> float:
    """Return the proportional set size of a process and its children: shared pages count once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family) / 2**20


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
