"""``portico doctor``: look at every backend now and explain each problem with its remedy."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import backends as book
from gateway.build import version
from gateway.commands import doctor_gpus
from gateway.commands.common import add_config_arguments, read_config
from gateway.commands.doctor_gpus import Findings, look, matched
from gateway.config import Config
from gateway.core.health import NOTHING, Observation, Reply, follow, step
from gateway.core.runtime import Runtime, Support
from gateway.core.types import ROUTABLE, Backend, Health, Load, Op, Pulse, Sight, Wire
from gateway.sensors.ask import Asker
from gateway.sensors.discover import Discoverer, place_of
from gateway.sensors.probe import (
    KEY_MISSING,
    KEY_REFUSED,
    KEY_WANTED,
    Identity,
    Stranger,
    identify,
    observe,
)

NO_GPUS = Findings()

PORTS = tuple(dict.fromkeys(port for row in book.RUNTIMES for port in row.ports))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Status 0 when nothing is wrong, 1 with problems, 2 for a faulty configuration."""
    config = read_config(args)
    if config is None:
        return 2
    examined, gpus = asyncio.run(examine_all(config))
    reports = diagnose(examined, config)
    write = as_json if args.json else as_text
    sys.stdout.write(write(reports, config, gpus))
    sys.stdout.flush()
    return 1 if _count(reports, gpus) else 0


# -- looking --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """One backend: who answered, what the round brought and what to believe of it. ``latency`` is
    that of the health check in seconds, None without one. ``looks_like`` is the runtime that
    detection would name, where the configuration names one itself."""

    backend: Backend
    who: Identity | Stranger
    seen: Observation
    sight: Sight
    latency: float | None = None
    looks_like: Runtime | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def row(self) -> Runtime | None:
        return self.who.row if isinstance(self.who, Identity) else None


async def examine_all(config: Config) -> tuple[list[Report], Findings]:
    """Backends first, since the GPUs of those that were discovered are looked for as well."""
    reports = await examine(config)
    return reports, await look([report.backend for report in reports], config)


async def examine(config: Config) -> list[Report]:
    """Look at all configured backends at once, and at those on well-known ports if asked to."""
    async with Asker() as ask:
        found = await Discoverer(PORTS, ()).look(ask, config.backends) if config.discover else []
        backends = [*config.backends, *(engine.backend for engine in found)]
        return list(await asyncio.gather(*(inspect(ask, backend) for backend in backends)))


async def inspect(ask: Asker, backend: Backend) -> Report:
    """One backend, looked at once."""
    who = await identify(ask, backend)
    if isinstance(who, Stranger):
        seen = Observation(reply=who.reply, health=who.health, detail=who.detail)
        return Report(backend, who, seen, _believed(seen))
    latency = await _latency(ask, backend, who.row)
    seen, _ = await observe(ask, backend, who, NOTHING)
    guess = await _guess(ask, backend, who, seen)
    return Report(backend, who, seen, _believed(seen), latency, guess)


async def _latency(ask: Asker, backend: Backend, row: Runtime) -> float | None:
    heard = await ask.get(backend, row, row.probe.paths[0], row.probe.timeout)
    return heard.took if heard.status else None


async def _guess(ask: Asker, backend: Backend, who: Identity, seen: Observation) -> Runtime | None:
    if backend.runtime not in book.BY_NAME or seen.reply is not Reply.ANSWERED:
        return None
    guess = await identify(ask, replace(backend, runtime="auto"))
    known = isinstance(guess, Identity) and not guess.base.cloud
    return guess.base if isinstance(guess, Identity) and known else None


def _believed(seen: Observation) -> Sight:
    now = time.monotonic()
    return step(Sight(), follow(NOTHING, seen, Pulse(), now), Pulse(), now)


# -- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """What a check may look at."""

    report: Report
    others: tuple[Report, ...]
    config: Config

    @property
    def backend(self) -> Backend:
        return self.report.backend

    @property
    def sight(self) -> Sight:
        return self.report.sight

    @property
    def at(self) -> str:
        return urlsplit(self.backend.url).netloc

    @property
    def answered(self) -> bool:
        return self.report.seen.reply is Reply.ANSWERED

    @property
    def itself(self) -> bool:
        ours = place_of(f"http://{self.config.server.host}:{self.config.server.port}")
        return self.report.who.portico is not None and place_of(self.backend.url) == ours

    @property
    def listed(self) -> frozenset[str] | None:
        """The names of the models it lists; None when no list could be read."""
        if self.report.seen.models is None:
            return None
        return frozenset(n for model in self.report.seen.models for n in (model.id, *model.aliases))


def diagnose(reports: Sequence[Report], config: Config) -> list[Report]:
    """The same reports with their problems."""
    return [replace(report, problems=_problems(report, reports, config)) for report in reports]


def _problems(report: Report, all_: Sequence[Report], config: Config) -> tuple[Problem, ...]:
    case = Case(report, tuple(other for other in all_ if other is not report), config)
    return tuple(problem for check in CHECKS for problem in check(case))


def _no_connection(case: Case) -> Iterator[Problem]:
    reply, error = case.report.seen.reply, case.report.seen.detail
    if reply in SILENCE and not (reply is Reply.UNREACHABLE and "resolver" in error):
        yield Problem(f"{case.at}: {error}", SILENCE[reply])
    elif reply is Reply.UNREACHABLE:
        yield Problem(
            f"{error}",
            "Correct the host in the url, or add the name to DNS or /etc/hosts; inside a container,"
            " use the service's name and put both on one network.",
        )


SILENCE = {
    Reply.REFUSED: (
        "Start the engine, or correct host and port in the url; many engines refuse connections"
        " until their model is loaded. On another host or in a container it must listen on more"
        " than loopback (--host 0.0.0.0 for most) and the firewall must let the port through."
    ),
    Reply.UNREACHABLE: (
        "Check that the host is up and reachable from here, and that no firewall drops packets to"
        " this port; timeouts.connect sets how long a connection may take."
    ),
    Reply.SLOW: (
        "The engine took the connection but did not answer: look into its log whether it hangs or"
        " is overloaded, and restart it if it stays so."
    ),
    Reply.CUT: (
        "Something accepts connections and drops them: a crashing engine, or a proxy in front of"
        " one that is not there. Look into the engine's log."
    ),
}


def _not_http(case: Case) -> Iterator[Problem]:
    error = case.report.seen.detail
    if case.report.seen.reply is not Reply.GARBLED:
        return
    if error.startswith("TLS: ") and "certificate" in error:
        remedy = (
            "Give the engine a certificate that this host trusts for that name, or make its CA"
            " known here (SSL_CERT_FILE)."
        )
    elif error.startswith("TLS: "):
        remedy = "The server does not speak TLS there: write http:// in the url, or fix its TLS."
    else:
        remedy = (
            "Check the port: it belongs to something else, or to a server that wants https:// in"
            " the url."
        )
    yield Problem(f"{case.at}: {error}", remedy)


def _key(case: Case) -> Iterator[Problem]:
    if case.sight.detail not in KEY_TROUBLE:
        return
    if case.backend.secret:
        remedy = "Correct the api_key of this backend: it must be the one the engine was given."
    else:
        remedy = "Set api_key (or api_key_file) of this backend to the key the engine was given."
    yield Problem(case.sight.detail, remedy)


KEY_TROUBLE = frozenset({KEY_MISSING, KEY_REFUSED, KEY_WANTED})


def _forbidden(case: Case) -> Iterator[Problem]:
    if case.answered and "(403)" in case.sight.detail:
        yield Problem(
            case.sight.detail,
            "An Ollama bound to loopback refuses host names it does not know: use its IP address"
            " or localhost in the url, or start it with OLLAMA_HOST=0.0.0.0 (OLLAMA_ORIGINS is for"
            " browsers only). Elsewhere, the key may lack a permission.",
        )


def _unrecognised(case: Case) -> Iterator[Problem]:
    who, detail = case.report.who, case.sight.detail
    told = detail in KEY_TROUBLE or "(403)" in detail
    if isinstance(who, Stranger) and case.answered and who.health is Health.SICK and not told:
        names = ", ".join(book.BY_NAME)
        yield Problem(
            f"{case.at}: {detail}",
            f"Check host, port and path of the url (without /v1). If it is an engine, set its"
            f" runtime, one of: {names}.",
        )


def _loading(case: Case) -> Iterator[Problem]:
    if case.sight.health is Health.LOADING:
        yield Problem(
            f"not ready yet: {case.sight.detail}",
            "Wait: it takes part as soon as it is ready. If it stays so, look into its log.",
        )


def _otherwise_ill(case: Case) -> Iterator[Problem]:
    explained = any(True for check in EXPLAINING for _ in check(case))
    if case.sight.health not in ROUTABLE and not explained:
        yield Problem(case.sight.detail, "Look into the engine's own log.")


def _self(case: Case) -> Iterator[Problem]:
    if case.itself:
        yield Problem(
            "this address is the gateway itself",
            "Remove this backend, or correct its port: a request would come back for ever.",
        )


def _other_runtime(case: Case) -> Iterator[Problem]:
    guess = case.report.looks_like
    if guess is not None and guess.name != case.backend.runtime:
        yield Problem(
            f"configured as {case.backend.runtime}, but it answers like {guess.title}",
            f"Set runtime to {guess.name}, or to auto.",
        )


def _missing_models(case: Case) -> Iterator[Problem]:
    if case.listed is None or case.sight.health not in ROUTABLE:
        return
    missing = [model for model in case.backend.models if model not in case.listed]
    if missing:
        yield Problem(
            f"configured models it does not serve: {', '.join(missing)}",
            f"Load them there, or correct 'models' of this backend. {_served(case)}",
        )
    if not case.listed and not case.backend.models:
        yield Problem(
            "it serves no model",
            "Load or pull one in the engine; it appears here within seconds.",
        )


def _missing_targets(case: Case) -> Iterator[Problem]:
    if case.listed is None or case.sight.health not in ROUTABLE:
        return
    for public in case.config.models:
        for target in public.targets:
            wanted = target.model if target.backend == case.backend.name else None
            if wanted is not None and wanted not in case.listed:
                yield Problem(
                    f"the public name '{public.name}' leads to '{wanted}', which it does not serve",
                    f"Load the model there, or correct the target. {_served(case)}",
                )


def _served(case: Case) -> str:
    return f"It serves: {', '.join(sorted(case.listed or ())) or 'nothing'}."


def _twice(case: Case) -> Iterator[Problem]:
    same = [
        other.backend.name
        for other in case.others
        if _address(other.backend) == _address(case.backend)
    ]
    if same:
        yield Problem(
            f"has the same url as {', '.join(same)}",
            "Keep one of them: together they count the engine's capacity twice.",
        )


def _address(backend: Backend) -> tuple[str, int, str]:
    path = backend.url.partition("://")[2].partition("/")[2]
    return (*place_of(backend.url), path)


Check = Callable[[Case], Iterable[Problem]]

EXPLAINING: tuple[Check, ...] = (
    _no_connection,
    _not_http,
    _key,
    _forbidden,
    _unrecognised,
    _loading,
)
CHECKS: tuple[Check, ...] = (
    _self,
    *EXPLAINING,
    _otherwise_ill,
    _other_runtime,
    _missing_models,
    _missing_targets,
    _twice,
)


# -- telling --------------------------------------------------------------------------------------


def as_json(reports: Sequence[Report], config: Config, gpus: Findings = NO_GPUS) -> str:
    """One object on one line; ``models`` are ids, ``context`` their lengths in tokens."""
    doc = {
        "portico": version(),
        "backends": [
            {**_entry(report), "gpus": matched(gpus, report.backend.name)} for report in reports
        ],
        "gpus": doctor_gpus.entries(gpus),
        "gpu_sources": [asdict(source) for source in gpus.sources],
        "problems": _count(reports, gpus),
    }
    return json.dumps(doc) + "\n"


def _count(reports: Sequence[Report], gpus: Findings) -> int:
    told = sum(len(report.problems) for report in reports)
    return told + len(doctor_gpus.problems(gpus))


def _entry(report: Report) -> dict[str, Any]:
    sight = report.sight
    return {
        "name": report.backend.name,
        "url": report.backend.url,
        "runtime": sight.runtime or report.backend.runtime,
        "health": sight.health.value,
        "detail": sight.detail,
        "version": sight.version,
        "models": [model.id for model in sight.models],
        "context": {model.id: model.context for model in sight.models},
        "load": asdict(sight.load),
        "problems": [asdict(problem) for problem in report.problems],
    }


def as_text(reports: Sequence[Report], config: Config, gpus: Findings = NO_GPUS) -> str:
    """The version, a paragraph for each backend and each GPU, then what it comes to."""
    lines = [f"Portico {version()}", ""]
    lines += [line for report in reports for line in (*_paragraph(report, gpus), "")]
    if not reports:
        lines += [*_nobody(config), ""]
    lines += [*doctor_gpus.lines(gpus), "", _sum(_count(reports, gpus))]
    return "\n".join(lines) + "\n"


def _nobody(config: Config) -> Iterator[str]:
    yield "No backend is configured."
    if config.discover:
        yield f"No engine was found on this host's ports {', '.join(map(str, PORTS))}."
    yield "Start an engine, or name one: portico serve --backend http://HOST:PORT"


def _sum(count: int) -> str:
    return "No problem found." if not count else f"{count} problem{'s' * (count > 1)} found."


def _paragraph(report: Report, gpus: Findings) -> Iterator[str]:
    backend, sight, row = report.backend, report.sight, report.row
    yield f"{backend.name}  {backend.url}{'  (discovered)' if backend.discovered else ''}"
    if isinstance(report.who, Identity) and row is not None:
        yield f"  runtime   {' '.join(filter(None, (row.title, sight.version)))}"
        yield f"            recognised: {report.who.reason}"
    else:
        yield f"  runtime   {UNTOLD.get(backend.runtime, backend.runtime + ' (configured)')}"
    yield f"  health    {sight.health}: {sight.detail}{_latency_of(report)}"
    if row is not None and sight.health in ROUTABLE:
        yield from _models(sight)
        yield f"  load      {_load(row, sight.load)}"
        yield from _surfaces(row)
    if row is None or not row.cloud:
        yield f"  GPUs      {matched(gpus, backend.name)}"
    for problem in report.problems:
        yield f"  PROBLEM   {problem.problem}"
        yield f"  remedy    {problem.remedy}"


UNTOLD = {"auto": "not recognised"}


def _latency_of(report: Report) -> str:
    return "" if report.latency is None else f" ({report.latency * 1000:.1f} ms)"


def _models(sight: Sight) -> Iterator[str]:
    if not sight.models:
        yield "  models    none"
    for number, model in enumerate(sight.models):
        context = f"  context {model.context}" if model.context else ""
        yield f"  {'models' if number == 0 else '':<8}  {model.id}{context}"


def _load(row: Runtime, load: Load) -> str:
    signals = {
        "running": load.running,
        "waiting": load.waiting,
        "KV cache used": load.kv_used,
        "prefix cache hits": load.hit_ratio,
        "slots": load.slots,
    }
    told = [f"{name} {value:g}" for name, value in signals.items() if value is not None]
    if load.running is not None:
        return ", ".join(told)
    flag = row.flags.get("metrics")
    way = f"; to turn it on: {flag}" if flag else ""
    return f"not published{way}{'; ' if told else ''}{', '.join(told)}"


SUPPORT = {
    Support.YES: "surfaces",
    Support.MODEL: "  with a model of that kind:",
    Support.FLAG: "  with a flag:",
    Support.NO: "  not there:",
}


def _surfaces(row: Runtime) -> Iterator[str]:
    for support, title in SUPPORT.items():
        named = [
            _surface(wire, op) for (wire, op), cell in row.cells.items() if cell.support is support
        ]
        if named:
            yield f"  {title:<8}  {', '.join(named)}"


def _surface(wire: Wire, op: Op) -> str:
    return op.value if wire is Wire.OPENAI else f"{op.value} ({wire})"
