"""What scrapers see after requests of every fate (INTERFACE sections 6 and 7)."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from gateway.control.exposition import wants_openmetrics
from gateway.control.families import FAMILIES, INTER_TOKEN, Type
from gateway.control.gpu_rows import rows
from gateway.control.metrics import Histogram, Metrics
from gateway.core.gpus import Gpu, Holding, Panorama
from gateway.core.types import (
    ITL_BUCKETS,
    Backend,
    Fleet,
    Health,
    Load,
    Outcome,
    Sight,
    Usage,
)

GOOD = Outcome(
    "r1",
    "team-a",
    "chat-completions",
    "chat",
    200,
    backend="gpu1",
    upstream_model="Qwen/Qwen2.5-7B-Instruct",
    stream=True,
    attempts=1,
    overhead=0.0004,
    first_byte=0.12,
    duration=1.5,
    usage=Usage(input=10, output=20, cached=4),
)
EVERYTHING = Panorama(
    {
        "GPU-a": Gpu(
            "host1",
            "0",
            "GPU-a",
            busy=0.5,
            memory_used=1,
            memory_total=2,
            temperature=60.0,
            power=300.0,
            ecc_uncorrected=0,
            xids={79: 1},
        )
    },
    {"gpu1": Holding(("GPU-a",))},
)
REFUSED = Outcome("r2", "team-a", "chat-completions", "unknown", 404, refusal="model_not_found")


def page(metrics: Metrics, accept: str = "") -> list[Metric]:
    body, kind = metrics.render(accept)
    parse = openmetrics if "openmetrics" in kind else plain
    return list(parse(body.decode()))


def samples(source: Metrics | Iterable[Metric], name: str) -> dict[tuple[str, ...], float]:
    """The values of all samples of a name, by their labels' values in alphabetical order of
    the labels."""
    families = page(source) if isinstance(source, Metrics) else source
    return {
        tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def after(*outcomes: Outcome) -> Metrics:
    metrics = Metrics()
    for outcome in outcomes:
        metrics.observe(outcome)
    return metrics


def test_every_ended_request_is_counted_by_what_the_client_saw() -> None:
    metrics = after(GOOD, GOOD, REFUSED, replace(GOOD, status=0, cut_by="client"))
    assert samples(metrics, "portico_requests_total") == {
        ("gpu1", "chat", "200", "chat-completions"): 2,
        ("", "unknown", "404", "chat-completions"): 1,
        ("gpu1", "chat", "499", "chat-completions"): 1,
    }


def test_labels_are_those_of_the_contract() -> None:
    saved = replace(GOOD, attempts=2, moves=("refused",))
    metrics = after(replace(saved, itl=(1,) * 14, cut_by="client", queued=0.5))
    metrics.rate_limited("team-a", "requests")
    metrics.set_queued_source(lambda: {"chat": 1})
    metrics.gpu_gate("gpu1", "gpu_lost")
    metrics.charge("chat", "team-a", 5.0, 1.0)
    metrics.readings(rows(EVERYTHING, frozenset(), {"GPU-a": 7.0}))
    metrics.set_in_flight_source(lambda: {("chat", "gpu1"): 1})
    metrics.fleet(fleet(gpu1=Sight(load=Load(1, 1, 0.5, 0.5))))
    seen = {
        re.sub("_(bucket|sum|count)$", "", sample.name): set(sample.labels) - {"le"}
        for family in page(metrics)
        for sample in family.samples
        if sample.name.startswith("portico_")
    }
    assert seen == {family.name: set(family.labels) for family in FAMILIES}


def test_durations_and_first_tokens_land_in_their_buckets() -> None:
    metrics = after(GOOD)
    families = page(metrics)
    duration = samples(families, "portico_request_duration_seconds_bucket")
    assert duration[("gpu1", "1.0", "chat", "chat-completions")] == 0
    assert duration[("gpu1", "2.5", "chat", "chat-completions")] == 1
    assert duration[("gpu1", "+Inf", "chat", "chat-completions")] == 1
    first = samples(families, "portico_time_to_first_token_seconds_sum")
    assert first == {("gpu1", "chat"): 0.12}


def test_only_what_had_to_wait_counts_as_a_wait() -> None:
    families = page(after(GOOD, replace(GOOD, queued=0.3), replace(GOOD, queued=0.0)))
    waits = samples(families, "portico_queue_wait_seconds_count")
    assert waits == {("chat",): 2}


def test_who_waits_is_a_gauge_by_model() -> None:
    metrics = after(GOOD)
    metrics.set_queued_source(lambda: {"chat": 3, "small": 0})
    assert samples(page(metrics), "portico_queue_depth") == {("chat",): 3, ("small",): 0}


def test_a_value_on_a_bound_belongs_to_that_bound() -> None:
    cell = Histogram((1.0, 2.0))
    for value in (1.0, 1.0000001, 2.0, 3.0):
        cell.add(value)
    assert (cell.counts, cell.sum) == ([1, 2, 1], 7.0000001)


@pytest.mark.parametrize(
    "outcome",
    [
        replace(GOOD, status=503),
        replace(GOOD, first_byte=None),
        replace(GOOD, surface="embeddings"),
        replace(GOOD, status=0),
    ],
)
def test_only_good_generation_has_a_first_token(outcome: Outcome) -> None:
    assert samples(after(outcome), "portico_time_to_first_token_seconds_count") == {}


def test_an_answer_that_does_not_stream_has_a_first_token_too() -> None:
    metrics = after(replace(GOOD, stream=False))
    assert samples(metrics, "portico_time_to_first_token_seconds_count") == {("gpu1", "chat"): 1}


def test_inter_token_counts_of_streams_add_up() -> None:
    counts = (*range(len(ITL_BUCKETS)), 2)
    metrics = after(*[replace(GOOD, itl=counts, itl_sum=4.5)] * 2)
    families = page(metrics)
    buckets = samples(families, INTER_TOKEN.name + "_bucket")
    assert buckets[("gpu1", "0.001", "chat")] == 0
    assert buckets[("gpu1", "0.005", "chat")] == 2 * (0 + 1 + 2)
    assert buckets[("gpu1", "+Inf", "chat")] == 2 * sum(counts)
    assert samples(families, INTER_TOKEN.name + "_sum") == {("gpu1", "chat"): 9.0}


def test_inter_token_counts_of_other_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Histogram(ITL_BUCKETS).add_all((1, 2), 0.1)


def test_tokens_are_counted_by_direction_and_input_includes_cached() -> None:
    metrics = after(GOOD, replace(GOOD, status=0, cut_by="client", usage=Usage(output=5)), REFUSED)
    assert samples(metrics, "portico_tokens_total") == {
        ("gpu1", "input", "chat"): 10,
        ("gpu1", "output", "chat"): 25,
        ("gpu1", "cached", "chat"): 4,
    }


def test_the_gateways_own_share_is_resolved_in_fractions_of_a_millisecond() -> None:
    buckets = samples(after(GOOD, replace(GOOD, overhead=None)), "portico_overhead_seconds_bucket")
    assert (buckets[("0.0003",)], buckets[("0.0004",)], buckets[("+Inf",)]) == (0, 1, 1)


def test_series_that_alerts_watch_are_there_before_the_first_request() -> None:
    families = page(Metrics())
    assert samples(families, "portico_overhead_seconds_count") == {(): 0}
    assert samples(families, "portico_config_reloads_total") == {("success",): 0, ("failure",): 0}


def test_each_further_attempt_is_a_retry_and_a_saved_request_is_one_failover() -> None:
    metrics = after(replace(GOOD, attempts=3, moves=("refused", "timeout"), stale=2))
    families = page(metrics)
    assert samples(families, "portico_retries_total") == {
        ("chat", "refused"): 1,
        ("chat", "timeout"): 1,
        ("chat", "stale"): 2,
    }
    assert samples(families, "portico_failovers_total") == {("chat", "refused"): 1}


@pytest.mark.parametrize(
    "change",
    [
        {"status": 502, "refusal": "backend_unreachable", "backend": ""},
        {"status": 503},
        {"status": 429},
        {"status": 424},
        {"status": 0, "cut_by": "client"},
    ],
)
def test_a_request_that_nobody_answered_is_no_failover(change: dict[str, Any]) -> None:
    metrics = after(replace(GOOD, attempts=2, moves=("refused", "reset"), **change))
    families = page(metrics)
    assert samples(families, "portico_failovers_total") == {}
    assert samples(families, "portico_retries_total") == {("chat", "refused"): 1}


def test_a_request_over_a_limit_of_its_key_is_counted_by_both() -> None:
    outcome = replace(GOOD, key="team-a", status=429, limit="tokens")
    families = page(after(outcome))
    assert samples(families, "portico_rate_limited_total") == {("team-a", "tokens"): 1}


def test_a_failure_that_nobody_else_was_asked_after_is_no_retry() -> None:
    outcome = replace(GOOD, status=502, refusal="backend_unreachable", moves=("refused",))
    assert samples(after(outcome), "portico_retries_total") == {}


def test_a_stale_connection_alone_is_a_retry_but_no_failover() -> None:
    families = page(after(replace(GOOD, stale=1)))
    assert samples(families, "portico_retries_total") == {("chat", "stale"): 1}
    assert samples(families, "portico_failovers_total") == {}


def test_clients_that_leave_are_counted_by_surface() -> None:
    metrics = after(replace(GOOD, cut_by="client"), replace(GOOD, cut_by="engine"))
    assert samples(metrics, "portico_client_disconnects_total") == {("chat-completions",): 1}


def test_refusals_for_limits_and_reloads_are_counted() -> None:
    metrics = Metrics()
    metrics.rate_limited("team-a", "requests")
    metrics.rate_limited("team-a", "requests")
    metrics.reload("failure")
    families = page(metrics)
    assert samples(families, "portico_rate_limited_total") == {("team-a", "requests"): 2}
    assert samples(families, "portico_config_reloads_total")[("failure",)] == 1


def fleet(**sights: Sight) -> Fleet:
    backends = {name: Backend(name, f"http://{name}:8000") for name in sights}
    return Fleet(1, 0.0, backends, sights)


def test_backends_show_their_state_and_load() -> None:
    metrics = Metrics()
    busy = Sight(Health.BUSY, runtime="vllm", version="0.33.0", load=Load(3, 1, 0.5, 0.25))
    metrics.fleet(fleet(gpu1=busy, gpu2=Sight(Health.DOWN, runtime="ollama"), gpu3=Sight()))
    families = page(metrics)
    assert samples(families, "portico_backend_up") == {
        ("gpu1", "vllm"): 1,
        ("gpu2", "ollama"): 0,
        ("gpu3", "unknown"): 0,
    }
    assert samples(families, "portico_backend_info")[("gpu1", "vllm", "0.33.0")] == 1
    assert samples(families, "portico_backend_requests_running") == {("gpu1",): 3}
    assert samples(families, "portico_backend_requests_waiting") == {("gpu1",): 1}
    assert samples(families, "portico_backend_kv_cache_usage_ratio") == {("gpu1",): 0.5}
    assert samples(families, "portico_backend_prefix_cache_hit_ratio") == {("gpu1",): 0.25}


def test_a_backend_without_a_sight_is_not_up() -> None:
    metrics = Metrics()
    one = Backend("gpu1", "http://gpu1:8000", runtime="tgi")
    metrics.fleet(Fleet(1, 0.0, {"gpu1": one}, {}))
    assert samples(metrics, "portico_backend_up") == {("gpu1", "tgi"): 0}


def test_series_of_a_backend_that_left_disappear() -> None:
    metrics = Metrics()
    metrics.fleet(fleet(gpu1=Sight(Health.UP), gpu2=Sight(Health.UP)))
    metrics.fleet(fleet(gpu2=Sight(Health.UP)))
    assert samples(metrics, "portico_backend_up") == {("gpu2", "unknown"): 1}


def test_requests_in_flight_are_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    working = {("chat", "gpu1"): 2}
    metrics.set_in_flight_source(lambda: working)
    assert samples(metrics, "portico_requests_in_flight") == {("gpu1", "chat"): 2}
    working[("chat", "gpu1")] = 0
    assert samples(metrics, "portico_requests_in_flight") == {("gpu1", "chat"): 0}


def test_series_stay_bounded_when_a_fault_lets_free_text_through() -> None:
    metrics = Metrics(limit=50)
    for number in range(500):
        metrics.observe(replace(GOOD, model=f"m{number}", moves=(f"why {number}",)))
        metrics.rate_limited(f"key{number}", "requests")
    families = page(metrics)
    requests = samples(families, "portico_requests_total")
    assert len(requests) == 51
    assert requests[("other", "other", "200", "chat-completions")] == 450
    assert samples(families, "portico_rate_limited_total")[("other", "other")] == 450
    for family in FAMILIES:
        counted = samples(families, family.name)
        assert len(counted) <= 3 * 52, family.name
        assert sum(counted.values()) in {0, 500, 500 * 34}, family.name


def test_both_formats_say_the_same() -> None:
    metrics = after(GOOD, REFUSED)

    def ours(accept: str) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
        return {
            (sample.name, frozenset(sample.labels.items()), sample.value)
            for family in page(metrics, accept)
            for sample in family.samples
            if sample.name.startswith("portico_")
        }

    assert ours("application/openmetrics-text; version=1.0.0") == ours("text/plain")
    assert metrics.render("application/openmetrics-text")[0].endswith(b"# EOF\n")
    assert b"# EOF" not in metrics.render("")[0]


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0", True),
        (PROMETHEUS, True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.5, text/plain", False),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;version=nonsense", True),
        (";;,,=;q", False),
    ],
)
def test_openmetrics_is_sent_when_asked_for(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected
    kind = Metrics().render(accept)[1]
    assert kind.startswith("application/openmetrics-text; version=1.0.0" if expected else "text/")


def test_odd_label_values_come_back_as_they_went_in() -> None:
    name = 'a"b\\c\nd{e="f"} ✓'
    metrics = after(replace(GOOD, model=name))
    for accept in ("", "application/openmetrics-text"):
        found = samples(page(metrics, accept), "portico_requests_total")
        assert found == {("gpu1", name, "200", "chat-completions"): 1}


def test_half_a_surrogate_pair_in_a_name_does_not_cost_the_page() -> None:
    found = samples(after(replace(GOOD, model="m\ud800")), "portico_requests_total")
    assert found == {("gpu1", "m\\ud800", "200", "chat-completions"): 1}


def test_workers_states_merge_to_what_one_process_would_have_counted() -> None:
    moved = replace(GOOD, moves=("refused",), itl=(1,) * 14, itl_sum=0.5, cut_by="client")
    left, right, whole = after(GOOD, moved), after(GOOD, REFUSED), after(GOOD, moved, GOOD, REFUSED)
    left.reload("success")
    whole.reload("success")
    merged = Metrics()
    for part in (left, right):
        merged.merge(pickle.loads(pickle.dumps(part.state())))
    assert merged.state() == whole.state()


def test_a_merged_count_goes_on_counting() -> None:
    metrics = after(GOOD)
    metrics.merge(after(GOOD).state())
    metrics.observe(GOOD)
    assert list(samples(metrics, "portico_requests_total").values()) == [3]


def test_a_state_does_not_change_after_it_was_taken() -> None:
    metrics = after(GOOD)
    state = metrics.state()
    before = pickle.dumps(state)
    metrics.observe(GOOD)
    assert pickle.dumps(state) == before


def test_the_page_tells_of_the_process_too() -> None:
    families = page(Metrics())
    assert samples(families, "process_resident_memory_bytes")[()] > 1e6
    assert samples(families, "process_open_fds")[()] > 2
    assert len(samples(families, "python_info")) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_well_formed(family: Any) -> None:
    assert family.help.endswith(".")
    assert family.name.endswith("_total") == (family.type is Type.COUNTER)
    assert list(family.bounds) == sorted(set(family.bounds))
    assert bool(family.bounds) == (family.type is Type.HISTOGRAM)
    assert not any(map(math.isinf, family.bounds))
