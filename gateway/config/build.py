"""From a sound document to the frozen values of ``Config``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from gateway.core.gpu_gate import Mode
from gateway.core.gpus import Gpus
from gateway.core.queue import Bounds
from gateway.core.types import Backend, PublicModel, Tactics, Target, Timeouts

from .addresses import split_runtime
from .model import BackendDoc, GpuDoc, GpusDoc, ModelDoc, RoutingDoc, ServerDoc
from .values import Gate, Server, StreamUsage


def server(doc: ServerDoc, base: Path) -> Server:
    """``base`` is the folder in which relative paths begin."""
    return Server(
        host=doc.host,
        port=doc.port,
        workers=cast("int | Literal['auto']", doc.workers),
        drain_timeout=doc.drain_timeout,
        max_body=doc.max_body,
        stream_usage=cast(StreamUsage, doc.stream_usage),
        tls_cert=None if doc.tls is None else base / doc.tls.cert,
        tls_key=None if doc.tls is None else base / doc.tls.key,
    )


def backends(
    docs: Sequence[BackendDoc], names: Sequence[str], proxies: Sequence[str]
) -> tuple[Backend, ...]:
    return tuple(_backend(*each) for each in zip(docs, names, proxies, strict=True))


def _backend(doc: BackendDoc, name: str, proxy: str) -> Backend:
    prefix, url = split_runtime(doc.url or "")
    keys = tuple(key.get_secret_value() for key in doc.api_key or ())
    return Backend(
        name=name,
        url=url,
        runtime=doc.runtime if prefix in (None, "auto") else prefix,
        weight=doc.weight,
        max_concurrency=doc.max_concurrency,
        secret=next(iter(keys), None),
        spares=keys[1:],
        proxy=proxy,
        models=doc.models,
        timeouts=Timeouts(doc.timeouts.connect, doc.timeouts.first_byte, doc.timeouts.idle),
    )


def gpus(docs: Sequence[BackendDoc], names: Sequence[str]) -> dict[str, Gpus]:
    pairs = zip(docs, names, strict=True)
    return {name: _gpus(doc.gpus) for doc, name in pairs if doc.gpus is not None}


def gate(doc: GpuDoc, docs: Sequence[BackendDoc], names: Sequence[str]) -> Gate:
    pairs = zip(docs, names, strict=True)
    modes = {name: Mode(one.gpu_gate) for one, name in pairs if one.gpu_gate is not None}
    return Gate(Mode(doc.gate), doc.good_for, modes)


def _gpus(doc: GpusDoc) -> Gpus:
    key = None if doc.key is None else doc.key.get_secret_value()
    return Gpus(doc.agent, doc.dcgm, doc.devices, key)


def queue(doc: RoutingDoc) -> Bounds:
    return Bounds(doc.queue.max, doc.queue.timeout, doc.keepalive)


def tactics(doc: RoutingDoc) -> Tactics:
    """How far to go for a request."""
    after = doc.hedge.after if doc.hedge else None
    return Tactics(
        retry_share=doc.retries.budget,
        retry_floor=doc.retries.per_second,
        load_wait=doc.load_wait,
        hedge=doc.hedge is not None,
        hedge_after=after if isinstance(after, float) else None,
        first_byte=doc.first_byte == "auto",
    )


def models(docs: Sequence[ModelDoc]) -> tuple[PublicModel, ...]:
    return tuple(
        PublicModel(
            name=doc.name,
            targets=tuple(Target(one.backend, one.model, one.weight) for one in doc.targets),
            fallbacks=doc.fallbacks,
            policy=doc.policy,
        )
        for doc in docs
    )
