"""The configuration file as it may be written: one class per section, unknown keys refused."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from backends import BY_NAME
from gateway.core.addresses import PRIVATE

from . import fields as f
from .addresses import split_runtime

ONE_KEY: dict[str, Any] = {"oneOf": [{"required": ["key"]}, {"required": ["key_file"]}]}


class Section(BaseModel):
    """A mapping of the file. A key with nothing after its colon counts as left out."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = cls.model_fields
        return {key: value for key, value in data.items() if value is not None or key not in known}


class TlsDoc(Section):
    """Serve HTTPS with this certificate. Paths are relative to the configuration file."""

    cert: f.File
    """PEM file with the certificate and its chain."""
    key: f.File
    """PEM file with the private key, without a passphrase."""


class ServerDoc(Section):
    """Where and how the gateway listens."""

    host: f.Host = "127.0.0.1"
    """Address to listen on; 0.0.0.0 or :: for every interface."""
    port: f.Port = 8000
    """Port to listen on; 0 takes any free one."""
    workers: f.Workers = 1
    """Processes that carry requests: a number, or auto for one per core."""
    drain_timeout: f.Seconds = 30.0
    """How long requests in flight may take to finish after SIGTERM."""
    max_body: f.Size = 32 << 20
    """Largest request body; larger ones are answered 413."""
    stream_usage: f.StreamUsage = "limits"
    """When engines are asked to count tokens in streams whose caller did not ask: for keys with
    token limits, always, or never."""
    tls: TlsDoc | None = None
    """Certificate and key for HTTPS."""


class TimeoutsDoc(Section):
    """How long to wait for a backend."""

    connect: f.Seconds = 2.0
    """For the connection."""
    first_byte: f.Seconds = 120.0
    """For the first byte of the answer."""
    idle: f.Seconds = 60.0
    """For each further byte."""


class GpusDoc(Section):
    """Which GPUs a backend runs on. For an engine on this host that is found out; for one on
    another host somebody there has to tell."""

    agent: f.Address | None = None
    """Address of 'portico gpu-agent' on the backend's host, such as http://10.0.0.11:9835. Other
    backends of that host need not repeat it."""
    key: f.UpstreamKey | None = None
    """Key of the agent."""
    key_file: f.File | None = None
    """File that holds the key of the agent."""
    dcgm: f.Address | None = None
    """Metrics page of a DCGM exporter on the backend's host, such as
    http://10.0.0.11:9400/metrics; it tells no processes, so name the devices."""
    devices: tuple[f.Device, ...] = ()
    """GPUs by index or UUID (of a MIG instance, too), instead of those found by process."""

    @field_validator("dcgm")
    @classmethod
    def _one_source(cls, dcgm: str | None, info: ValidationInfo) -> str | None:
        if dcgm is not None and info.data.get("agent") is not None:
            raise ValueError("stands beside 'agent'; keep one of the two")
        return dcgm


class BackendDoc(Section):
    """One engine."""

    name: f.BackendName | None = None
    """Name in logs, metrics and BACKEND:MODEL; made from host and port when left out."""
    runtime: f.RuntimeName = "auto"
    """What the engine is; auto asks it."""
    url: f.BackendUrl | None = Field(default=None, validate_default=True)
    """Base address without /v1, such as http://10.0.0.11:8000; RUNTIME+http://… names the runtime
    as well."""
    api_key: f.UpstreamKeys | None = None
    """Key sent to the engine, or a list of several that take turns and rest when they are refused
    or over their limits; 'passthrough' forwards the caller's own."""
    api_key_file: f.File | None = None
    """File that holds the key sent to the engine, or several, one a line."""
    proxy: f.Proxy | None = None
    """Proxy on the way to an https:// address: http://HOST:PORT, or environment for what
    HTTPS_PROXY, ALL_PROXY and NO_PROXY say. None when left out, whatever the environment says."""
    models: tuple[f.Label, ...] = ()
    """The only model ids that may be used here; all when left out."""
    weight: f.Weight = 1.0
    """Share of the requests relative to the other backends of a model."""
    max_concurrency: f.Count | None = None
    """Most requests that the engine is given at once."""
    gpus: GpusDoc | None = None
    """Where the engine's GPUs can be watched."""
    gpu_gate: f.Gate | None = None
    """What a sick or slow GPU means for this backend; gpu.gate when left out."""
    timeouts: TimeoutsDoc = TimeoutsDoc()
    """How long to wait for this engine."""

    @field_validator("url")
    @classmethod
    def _settled(cls, url: str | None, info: ValidationInfo) -> str | None:
        runtime = info.data.get("runtime")
        row = BY_NAME.get(runtime or "")
        usual = row.url if row is not None else ""
        if url is None and runtime is not None and not usual:
            raise ValueError(
                "is required: the engine's base address, such as http://10.0.0.11:8000"
            )
        prefix = split_runtime(url or "")[0]
        if prefix and runtime and "auto" not in (prefix, runtime) and prefix != runtime:
            raise ValueError("names another runtime than 'runtime' does; keep one of the two")
        return url or usual or None


class TargetDoc(Section):
    """One backend behind a public model."""

    backend: f.BackendName
    """Name of a backend."""
    model: f.Label | None = None
    """The backend's id of the model; the public name or its only model when left out."""
    weight: f.Weight = 1.0
    """Share of the requests relative to the other targets."""


class ModelDoc(Section):
    """A name that callers may use, and the backends behind it."""

    name: f.PublicName
    """What callers write into 'model'."""
    targets: tuple[TargetDoc, ...]
    """Backends that serve it."""
    fallbacks: tuple[f.Label, ...] = ()
    """Names tried in this order when no target can take the request."""
    policy: f.PolicyName | None = None
    """Routing policy of this model; routing.policy when left out."""

    @field_validator("targets")
    @classmethod
    def _some(cls, targets: tuple[TargetDoc, ...]) -> tuple[TargetDoc, ...]:
        if not targets:
            raise ValueError("is empty; name at least one backend, such as [{backend: gpu1}]")
        return targets


class KeyDoc(Section):
    """A key of a caller, and what it may do."""

    model_config = ConfigDict(json_schema_extra=ONE_KEY)

    name: f.KeyName
    """Who holds the key, for logs and metrics."""
    key_file: f.File | None = None
    """File that holds the key."""
    key: f.ClientKey | None = Field(default=None, validate_default=True)
    """The key, plain or as sha256:… from 'portico keys new'."""
    models: tuple[f.Label, ...] = ("*",)
    """Shell-style patterns of the models it may use."""
    surfaces: tuple[f.Surface, ...] = ()
    """The only surfaces it may use, such as chat-completions or embeddings; all when left out."""
    requests_per_minute: f.Count | None = None
    """Limit of requests in any 60 seconds, over all workers."""
    tokens_per_minute: f.Count | None = None
    """Limit of tokens in any 60 seconds, input and output together."""
    tokens_per_day: f.Count | None = None
    """Limit of tokens in a day (UTC)."""
    tokens_per_month: f.Count | None = None
    """Limit of tokens in a calendar month (UTC)."""
    max_concurrency: f.Count | None = None
    """Limit of requests at once."""
    expires: f.Moment | None = None
    """When it ends: Unix seconds, or a date (and time) as in 2027-01-31T12:00:00Z; UTC unless it
    says otherwise."""
    priority: f.Priority = "normal"
    """Who goes first where requests wait: high, normal or low. The header X-Portico-Priority may
    ask for less, never for more."""

    @field_validator("key")
    @classmethod
    def _given(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if key is None and info.data.get("key_file") is None:
            raise ValueError("is required: the key, its sha256:… form, or key_file")
        return key


class AuthDoc(Section):
    """Who may use the gateway; without any key everybody may."""

    keys: tuple[KeyDoc, ...] = ()
    """Keys of callers."""
    admin_keys: tuple[f.ClientKey, ...] = ()
    """Keys of administrators, plain or as sha256:…"""
    admin_keys_file: f.File | None = None
    """File with further keys of administrators, one a line."""


class QueueDoc(Section):
    """Where requests wait while all backends of their model are full."""

    max: f.Waiting = 512
    """Most requests that wait for one model, over all workers; beyond it they are answered 503 at
    once, as all are with 0."""
    timeout: f.Seconds = 30.0
    """Longest time that a request waits; one that would wait longer is answered 503 at once."""
    limits: f.Learn = "configured"
    """When a backend is full: at its max_concurrency (configured); also at what the engine says of
    its slots and its own queue (engine); also where more at once brings no more tokens a second
    (learned)."""


class RetriesDoc(Section):
    """How often a request may be tried again, on another backend, before its answer began. Both
    hold for each process by itself. What one crash of an engine cuts off, and what was never sent
    for lack of room, moves on without counting."""

    budget: f.Ratio = 0.2
    """Further attempts as a share of the requests, 0 to 1."""
    per_second: f.Rate = 10.0
    """Further attempts a second that are always allowed; 10 seconds of them can be saved up."""


class HedgeDoc(Section):
    """A second copy of a generating request, on another engine, when no byte of an answer has come
    in time. What answers first is relayed, the other is cancelled. Copies count as retries."""

    after: f.HedgeAfter
    """p95, the 95th percentile of the model's last first bytes (once 30 are known), or a time."""


class RoutingDoc(Section):
    """How a backend is chosen among those that can take a request."""

    policy: f.PolicyName = "auto"
    """Routing policy of every model that names none of its own."""
    queue: QueueDoc = QueueDoc()
    """Who may wait for a backend, and for how long."""
    keepalive: f.Seconds | None = None
    """After how long, and how often, a waiting stream is sent a comment; this commits its status
    to 200. Off when left out."""
    retries: RetriesDoc = RetriesDoc()
    """Bounds on further attempts, so that an outage is not multiplied."""
    hedge: HedgeDoc | None = None
    """Second copies of late requests; none when left out."""
    first_byte: f.FirstByte = "timeout"
    """When a request without a first byte goes elsewhere: timeout, after the backend's
    timeouts.first_byte; auto, also after four times the 95th percentile of the model's last first
    bytes (5 s at least) where another backend can be asked."""
    load_wait: f.Seconds = 60.0
    """How long a request waits while an engine loads its model; then, or when the load is known to
    take longer, it is refused with 503 and the time to come back."""


class GpuDoc(Section):
    """How GPUs are looked at and judged."""

    interval: f.Seconds = 1.0
    """How often the GPUs of this host, and the agents of others, are read."""
    gate: f.Gate = "enforce"
    """What a sick or slow GPU means for its backend: enforce (no new requests while it is sick,
    fewer while it is throttled), warn (a line in the log and a metric), or off."""
    good_for: f.Seconds = 30.0
    """How long the readings of a GPU must have been good before it is trusted again."""


class StoreDoc(Section):
    """Where state that outlives a restart is kept."""

    url: f.StoreUrl | None = None
    """sqlite:///PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB."""
    url_file: f.File | None = None
    """File that holds the address, where it has a password."""
    secret: f.UpstreamKey | None = None
    """Secret with which the keys of providers are encrypted in the store; long and random. Needs
    the package cryptography. Without it they are kept as they are."""
    secret_file: f.File | None = None
    """File that holds the secret."""
    retention: f.Seconds = 90 * 86400.0
    """How long usage is kept."""


class ProvidersDoc(Section):
    """Backends that administrators add over HTTP (POST /providers)."""

    allow: tuple[f.Network, ...] = PRIVATE
    """Networks that are not public and that providers may be in: this host and all private ones
    when left out. Public addresses are always allowed; link-local ones, those of cloud metadata
    services and the gateway's own never."""


class Document(Section):
    """Configuration of the Portico gateway."""

    model_config = ConfigDict(title="portico.yaml")

    server: ServerDoc = ServerDoc()
    backends: tuple[BackendDoc, ...] = ()
    models: tuple[ModelDoc, ...] = ()
    auth: AuthDoc = AuthDoc()
    routing: RoutingDoc = RoutingDoc()
    gpu: GpuDoc = GpuDoc()
    store: StoreDoc = StoreDoc()
    providers: ProvidersDoc = ProvidersDoc()
