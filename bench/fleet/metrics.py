"""An engine's /metrics, by vLLM's names (vllm/v1/metrics/loggers.py)."""

from __future__ import annotations

from bench.fleet.engine import Engine

BLOCK = 16
"""Tokens of a block as vLLM counts them."""


def page(engine: Engine, now: float, waited: float, begun: int, model: str) -> str:
    """The page; ``waited`` are the seconds to first tokens, of which ``begun`` were written."""
    counted = engine.counters
    series = (
        ("num_requests_running", "gauge", float(engine.running), ""),
        ("num_requests_waiting", "gauge", float(len(engine.waiting)), ""),
        ("kv_cache_usage_perc", "gauge", engine.usage, ""),
        ("prefix_cache_queries_total", "counter", counted.prompt, ""),
        ("prefix_cache_hits_total", "counter", counted.hit, ""),
        ("prompt_tokens_total", "counter", counted.prompt, ""),
        ("generation_tokens_total", "counter", engine.generated(now), ""),
        ("num_preemptions_total", "counter", counted.preempted, ""),
        ("request_success_total", "counter", counted.finished, ',finished_reason="length"'),
        ("time_to_first_token_seconds_sum", "counter", waited, ""),
        ("time_to_first_token_seconds_count", "counter", begun, ""),
    )
    lines = [
        f'# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name="{model}",engine="0"{more}}} {value}\n'
        for name, kind, value, more in series
    ]
    blocks = engine.spec.kv_tokens // BLOCK
    sizes = f'block_size="{BLOCK}",num_gpu_blocks="{blocks}",engine="0"'
    lines.append(f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{sizes}}} 1.0\n")
    return "".join(lines)
