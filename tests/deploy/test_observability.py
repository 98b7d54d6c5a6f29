"""Alerts and the dashboard speak of metrics and labels that exist."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .common import DEPLOY, documents, exposed, known_labels, labels, names

PROMETHEUS = DEPLOY / "prometheus"
(RULES,) = documents(PROMETHEUS / "alerts.yml")
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana/portico.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_watches_metrics_that_exist_and_tells_people_what_to_do(
    alert: dict[str, Any],
) -> None:
    expression = alert["expr"]
    assert names(expression)
    assert names(expression) <= exposed()
    assert labels(expression) <= known_labels(expression)
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["description"].endswith(".")


def test_the_alerts_cover_backends_errors_latency_and_clients() -> None:
    watched = {name for alert in ALERTS for name in names(alert["expr"])}
    assert {
        "portico_backend_up",
        "portico_requests_total",
        "portico_time_to_first_token_seconds_bucket",
        "portico_client_disconnects_total",
    } <= watched
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)


def test_prometheus_scrapes_the_gateway_and_loads_the_alerts() -> None:
    (config,) = documents(PROMETHEUS / "prometheus.yml")
    assert [(PROMETHEUS / name).exists() for name in config["rule_files"]] == [True]
    (job,) = config["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["portico:8000"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_metrics_that_exist(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    for target in panel["targets"]:
        expression = target["expr"]
        assert names(expression)
        assert names(expression) <= exposed()
        assert labels(expression) <= known_labels(expression)


def test_the_dashboard_answers_the_usual_questions() -> None:
    shown = {name for panel in PANELS for each in panel["targets"] for name in names(each["expr"])}
    assert {
        "portico_requests_total",
        "portico_time_to_first_token_seconds_bucket",
        "portico_inter_token_latency_seconds_bucket",
        "portico_tokens_total",
        "portico_requests_in_flight",
        "portico_backend_up",
    } <= shown
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_panels_do_not_overlap() -> None:
    taken = [
        (x, y)
        for panel in PANELS
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_the_dashboard_is_not_bound_to_one_grafana() -> None:
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "model", "backend"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
