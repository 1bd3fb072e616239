"""The architecture, held by a test: imports go down only, and each module stands by itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "batchserve"

# Each line may import from those above it, and from its own folder.
BATCHING = [
    [
        "batching.shares",
        "batching.drift",
        "batching.memory_limit",
        "batching.quarantine",
        "batching.toll",
        "batching.arrivals",
        "batching.knee",
    ],
    ["batching.cost"],
    ["batching.bucket"],
    ["batching.policy", "batching.admission"],
    ["batching.in_flight"],
    ["batching.scheduler"],
    ["batching.configured"],
]
LAYERS = [
    [
        *("errors", "memory", "signals", "lineage", "crew", "systemd"),
        *("addresses", "quantiles", "cores", "urls", "mistakes"),
    ],
    ["importing", "leaving", "stores", "history", "samples", "plotting"],
    ["config", "batch"],
    ["config_file", "history_log", "trial_record"],
    ["permission"],
    ["own_thread"],
    ["tasks", "loading", "decoding", "metrics", "trace", "records"],
    ["recorder", "otel"],
    *BATCHING,
    ["runners"],
    ["batching.passes"],
    ["batching.batcher"],
    ["repository"],
    ["agreement"],
    ["inference", "greeting", "administration", "loading_bar"],
    ["model_stats", "shadow", "start"],
    ["web"],
    ["app", "simulation", "demo"],
    ["testing"],
    ["gunicorn_hooks", "json_log"],
    ["gunicorn_settings"],
    ["simulation", "top", "bench", "tuning"],
    ["cli"],
]
# Where a library is at home; elsewhere it would tie together what should be apart.
HOMES = {
    "torch": ["own_thread", "tasks", "loading", "runners", "demo", "testing"],
    "torchvision": ["tasks", "loading"],
    "aiohttp": ["web", "app", "testing.serving"],
    "yarl": ["web.fetch"],
    "msgpack": ["web.formats"],
    "gunicorn": ["gunicorn_settings", "json_log"],
    "prometheus_client": ["metrics", "gunicorn_settings", "web.operations", "top.scrape"],
    "opentelemetry": ["otel"],
    "yaml": ["config_file"],
    "ruamel": ["tuning.writing"],
    "redis": ["stores.redis"],
    "sqlite3": ["stores.sqlite"],
    "simplejpeg": ["tasks"],
    "simdjson": ["web.flat_json"],
    "PIL": ["tasks", "demo", "samples"],
    "requests": ["loading"],
    "safetensors": ["loading"],
    "dill": ["loading"],
    "torchao": ["loading"],
    "typer": ["cli", "simulation.command", "top.command", "bench.command", "tuning.command"],
    "matplotlib": ["plotting"],
    "httptools": ["bench.connection"],
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def layer_of(name: str) -> int | None:
    return next(
        (depth for depth, places in enumerate(LAYERS) for p in places if within(name, p)), None
    )


def imports_of(path: Path) -> Iterator[str]:
    """Yield what a module imports, also inside functions, but not what only its types need."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_its_layer_and_imports_go_down_only(path):
    name = name_of(path)
    if name in ("", "batching", "simulation", "top", "bench", "tuning"):
        assert not [found for found in imports_of(path) if found.startswith("batchserve.")]
        return
    depth = layer_of(name)
    assert depth is not None, f"{name} has no place in LAYERS"
    folder = name.split(".")[0]
    for imported in imports_of(path):
        top, _, rest = imported.partition(".")
        if top != "batchserve" or rest == "__version__":
            continue
        other = layer_of(rest)
        assert other is not None, f"{name} imports {imported}, which has no place in LAYERS"
        same_folder = path.parent != PACKAGE and within(rest, folder)
        assert other < depth or (same_folder and other == depth), (
            f"{name} (layer {depth}) imports {imported} (layer {other})"
        )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_where_they_are_at_home(path):
    name = name_of(path)
    for imported in imports_of(path):
        homes = HOMES.get(imported.split(".")[0])
        if homes is not None:
            assert any(within(name, home) for home in homes), f"{name} imports {imported}"


@pytest.mark.parametrize(
    "module",
    ["cli", "gunicorn_settings", "config_file", "memory", "batching.scheduler", "stores.redis"],
)
def test_the_master_and_the_policies_never_load_torch(module):
    code = f"import sys, batchserve.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Each in a process of its own, with torch, which imports nothing of ours, loaded once for all.
IMPORT_FIRST = """
import importlib, multiprocessing, sys, torch
context = multiprocessing.get_context("fork")
for name in sys.argv[1:]:
    process = context.Process(target=importlib.import_module, args=(name,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{name} cannot be imported first")
"""


def test_a_module_can_be_imported_first():
    names = ["app", "web.predict", "repository", "batching.batcher", "tasks"]
    modules = [f"batchserve.{name}" for name in names]
    command = [sys.executable, "-W", "error", "-c", IMPORT_FIRST, *modules]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
