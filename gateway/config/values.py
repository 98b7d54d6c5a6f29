"""What a loaded configuration is: frozen values that the rest of the gateway reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.core.addresses import PRIVATE
from gateway.core.gpu_gate import GOOD_FOR, Mode
from gateway.core.gpus import Gpus
from gateway.core.keys import Keyring
from gateway.core.queue import PLAIN, Bounds
from gateway.core.types import Backend, PublicModel, Tactics

StreamUsage = Literal["limits", "always", "never"]
LogFormat = Literal["json", "text"]

LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None and empty where it says nothing. Numbers may still be
    text: ``load`` checks them as it checks the file. ``backends`` are ``[NAME=]URL`` or
    ``[NAME=]RUNTIME+URL``."""

    host: str | None = None
    port: int | str | None = None
    workers: int | str | None = None
    backends: tuple[str, ...] = ()
    discover: bool | None = None
    demo: bool = False
    log_format: str | None = None
    log_level: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """How the gateway listens. ``drain_timeout`` in seconds, ``max_body`` in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int | Literal["auto"] = 1
    drain_timeout: float = 30.0
    max_body: int = 32 << 20
    stream_usage: StreamUsage = "limits"
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """What sick and slow GPUs mean: in general, and for single backends by name. ``good_for`` is
    in seconds."""

    mode: Mode = Mode.ENFORCE
    good_for: float = GOOD_FOR
    modes: Mapping[str, Mode] = field(default_factory=dict)

    def of(self, backend: str) -> Mode:
        return self.modes.get(backend, self.mode)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One configured key. ``path`` is where it stands: ``auth.keys[0]``, ``API_KEYS[1]``."""

    path: str
    name: str
    digest: str
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything an operator may set. ``source`` is the file it was read from; ``origins`` are
    pairs of a setting and the option or variable that set it, for those not from the file;
    ``warnings`` are lines for the operator; ``gpus`` is by backend name, ``gpu_interval`` in
    seconds; ``queue`` is who may wait at the door, ``learn`` whose word a backend's limit is taken
    from (core/capacity.py). ``retention`` of usage is in seconds; ``allow`` are the networks that
    providers may be in though they are not public."""

    server: Server = Server()
    backends: tuple[Backend, ...] = ()
    models: tuple[PublicModel, ...] = ()
    keyring: Keyring = field(default_factory=Keyring)
    policy: str = "auto"
    queue: Bounds = PLAIN
    learn: str = "configured"
    tactics: Tactics = field(default_factory=Tactics)
    store_url: str | None = field(default=None, repr=False)
    store_secret: str | None = field(default=None, repr=False)
    retention: float = 90 * 86400.0
    allow: tuple[str, ...] = PRIVATE
    discover: bool = True
    demo: bool = False
    log_format: LogFormat = "text"
    log_level: str = "info"
    source: Path | None = None
    warnings: tuple[str, ...] = ()
    origins: tuple[tuple[str, str], ...] = ()
    entries: tuple[KeyEntry, ...] = ()
    gpus: Mapping[str, Gpus] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    gpu_interval: float = 1.0
