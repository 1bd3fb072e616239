"""deploy/prometheus and deploy/grafana: valid, and about metrics and documents that exist."""

import json
import os
import re
import shutil
import subprocess
from itertools import combinations
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from batchserve.metrics import Metrics
from tests.conftest import ROOT

ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/batchserve.json"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def expressions() -> list[str]:
    """Return what all panels ask Prometheus."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def series() -> set[str]:
    """Return the names of all series that a server can have."""
    families = list(text_string_to_metric_families(Metrics().exposition().decode()))
    of_histograms = ("_bucket", "_sum", "_count")
    return {
        f"{family.name}{ending}"
        for family in families
        for ending in {"counter": ("_total",), "histogram": of_histograms}.get(family.type, ("",))
    }


def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        message = "promtool is not installed (Debian: apt-get install prometheus)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "deploy/prometheus/prometheus.yml"],
        ["check", "rules", "deploy/prometheus/alerts.yml"],
        ["test", "rules", "tests/deploy/alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments):
    done = subprocess.run(
        [promtool(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_and_has_its_section_in_the_docs():
    alerts = {rule["alert"] for rule in rules()}
    tests = yaml.safe_load((ROOT / "tests/deploy/alerts_test.yml").read_text(encoding="utf-8"))
    fired = {
        case["alertname"]
        for test in tests["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == alerts
    operating = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (Batchserve\w+)$", operating, flags=re.MULTILINE)
    assert set(headings) == alerts
    for rule in rules():
        assert rule["annotations"]["runbook"].endswith(f"docs/operating.md#{rule['alert'].lower()}")


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in rules()), *expressions()])
def test_only_series_that_exist_are_asked_for(expression):
    assert set(re.findall(r"batchserve_\w+", expression)) <= series()


def test_the_dashboard_shows_every_metric():
    shown = set(re.findall(r"batchserve_\w+", " ".join(expressions())))
    families = text_string_to_metric_families(Metrics().exposition().decode())
    for family in families:
        assert any(name.startswith(family.name) for name in shown), family.name


def test_the_dashboards_panels_neither_overlap_nor_share_a_name():
    panels = dashboard()["panels"]
    places = [panel["gridPos"] for panel in panels]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert max(place["x"] + place["w"] for place in places) == 24
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)


def test_the_dashboard_uses_the_variables_that_it_has():
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert variables == {"datasource", "instance", "model", "version"}
    text = json.dumps(dashboard())
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables
