"""The image, the compose file and the Kubernetes manifests are what an operator would sign."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .common import DEPLOY, ROOT, documents

(COMPOSE,) = documents(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS = {each["kind"]: each for each in documents(DEPLOY / "kubernetes/portico.yaml")}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def test_the_image_is_slim_and_its_last_stage_installs_nothing() -> None:
    build, last = stages()
    assert build[0][1] == "python:3.13-slim AS build"
    assert last[0][1] == "python:3.13-slim"
    assert not any(re.search(r"\b(pip|apt|apt-get|gcc|make)\b", rest) for _, rest in last)
    assert [rest for word, rest in last if word == "COPY"] == [
        "--from=build /opt/portico /opt/portico"
    ]


def test_an_image_is_compiled_where_it_is_asked_for_and_plain_elsewhere() -> None:
    assert ("ARG", "COMPILED=") in stages()[0]
    (made,) = (rest for word, rest in stages()[0] if word == "RUN" and "pip wheel" in rest)
    condition, compiled, plain = re.split(r"; then |; else ", made.split("; fi")[0])
    assert condition == 'if [ -n "$COMPILED" ]'
    assert "'.[compile]'" in compiled
    assert "PORTICO_COMPILE=1 pip wheel" in compiled
    assert "PORTICO_COMPILE" not in plain
    assert "/opt/portico/bin/pip install" in made
    assert "/wheels/portico-*.whl" in made


def test_the_image_runs_as_nobody_in_particular_and_checks_itself() -> None:
    last = dict(stages()[-1])
    assert last["USER"] == "10001:10001"
    assert "urllib.request" in last["HEALTHCHECK"]
    assert "/healthz" in last["HEALTHCHECK"]
    assert last["EXPOSE"] == "8000"
    assert last["ENTRYPOINT"] == '["portico", "serve", "--host", "0.0.0.0"]'


def test_the_health_checks_are_python_that_compiles() -> None:
    checks = [service["healthcheck"]["test"] for service in SERVICES.values()]
    programs = [words[3] for words in checks if words[2:3] == ["-c"]]
    (health,) = (rest for word, rest in instructions() if word == "HEALTHCHECK")
    programs.append(re.search(r'"-c", "(.*)"\]', health)[1])  # type: ignore[index]
    assert len(programs) == 3
    for program in programs:
        compile(program, "healthcheck", "exec")


def test_only_what_the_image_is_built_from_goes_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source.removeprefix("./")
        for word, rest in stages()[0]
        if word == "COPY"
        for source in rest.split()[:-1]
    }
    assert copied == allowed


def test_nothing_here_holds_a_secret() -> None:
    example = (DEPLOY / ".env.example").read_text()
    assert all(line.startswith("#") or line.endswith("=") for line in example.splitlines())
    assert ".env" in (DEPLOY / ".gitignore").read_text().splitlines()
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != ".env":
            text = path.read_text()
            assert not re.search(r"\b(sk-[A-Za-z0-9]{8}|hf_[A-Za-z0-9]{8})", text), path


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_pinned_checked_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


def test_every_volume_is_declared_and_every_mounted_file_exists() -> None:
    mounts = [mount.split(":")[0] for each in SERVICES.values() for mount in each["volumes"]]
    files = {mount for mount in mounts if mount.startswith(".")}
    assert set(mounts) - files == set(COMPOSE["volumes"])
    assert all((DEPLOY / file).exists() for file in files)


def test_compose_takes_every_key_from_the_environment_file() -> None:
    example = set(re.findall(r"(?m)^(\w+)=", (DEPLOY / ".env.example").read_text()))
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == example
    config = (DEPLOY / "examples/compose.yaml").read_text()
    given = set(SERVICES["portico"]["environment"])
    assert set(re.findall(r"\$\{(\w+)", config)) == given - {"PORTICO_CONFIG"}


def test_only_the_gateway_can_be_reached_from_outside() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {"portico": ["8000:8000"], "prometheus": ["127.0.0.1:9090:9090"]}


def test_the_engine_that_needs_a_gpu_reserves_one() -> None:
    devices = SERVICES["vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_composed_gateway_has_no_privileges_and_time_to_drain() -> None:
    gateway = SERVICES["portico"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    assert gateway["stop_grace_period"] == "45s"


def test_the_pod_has_no_privileges() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == 10001
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_is_probed_and_has_time_to_drain() -> None:
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert POD["terminationGracePeriodSeconds"] > 30 + 5


def test_the_manifests_fit_together() -> None:
    deployment = MANIFESTS["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    config = next(each for each in POD["volumes"] if each["name"] == "config")
    assert config["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": "portico-keys"}}]
    assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] in {
        port["name"] for port in CONTAINER["ports"]
    }
    assert CONTAINER["image"] == SERVICES["portico"]["image"]
