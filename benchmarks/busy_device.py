"""Which share of the time a device has something to do, client by client.

    python benchmarks/busy_device.py [--size 64] [--clients 64,128,256] [--seconds 4]

The model takes time and no CPU, as a device does, and the same for any number of items. So no
server can answer more than `size` requests in a pass; what is missing, the device has waited: for
answers to be written, and for requests to be read. With no more clients than a batch has places all
are in one batch, and it has to wait.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench_models import Sleeper
from comparison.wrk import run_wrk
from rich.console import Console
from rich.table import Table
from serving import serving

WARM_UP_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64, help="items in a batch, at most")
    parser.add_argument("--clients", default="64,128,256")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each number of clients")
    options = parser.parse_args()
    most = options.size / Sleeper.PASS_S
    shown = Table(title=f"a device that can answer {most:,.0f} requests/s", title_justify="left")
    for column in ("clients", "requests/s", "busy", "p50 ms", "p99 ms", "failed"):
        shown.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = folder / "body.json"
        body.write_text(json.dumps({"input": [0.1] * 10}), encoding="utf-8")
        with serving(config(options.size), folder) as server:
            url = f"{server.base}/predict"
            for clients in map(int, options.clients.split(",")):
                run_wrk(url, body, "application/json", clients, WARM_UP_S)
                load = run_wrk(url, body, "application/json", clients, options.seconds)
                times = (load.p50_ms, load.p99_ms)
                shown.add_row(
                    f"{clients}", f"{load.rate:,.0f}", f"{load.rate / most:.0%}",
                    *(f"{ms:.1f}" for ms in times), f"{load.non_2xx + load.socket_errors}",
                )  # fmt: skip
    Console().print(shown)


def config(size: int) -> dict[str, Any]:
    model = {
        "name": "sleeper",
        "source": "bench_models:Sleeper",
        "input_shape": [10],
        "device": "cpu",
        "batching": {"max_batch_size": size, "max_queue_size": 1024},
    }
    return {"server": {"workers": 1, "accesslog": None}, "models": [model]}


if __name__ == "__main__":
    main()
