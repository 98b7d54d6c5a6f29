"""Starts the real engines once per run and one gateway in front of all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from tests.engines import engines
from tests.engines.engines import Engine
from tests.engines.install import vllm_python
from tests.harness import Gateway

KEY = "callers-key"
"""What callers show to the gateway; no engine may see it."""

ROOM_FOR_TWO = 9 * 1024**3
"""Bytes of free memory from which a second vLLM (3 GiB each) is started, for embeddings."""

HAVE_VLLM = vllm_python() is not None
SECOND_VLLM = HAVE_VLLM and psutil.virtual_memory().available > ROOM_FOR_TWO
CHAT = ["llama", *(["vllm"] if HAVE_VLLM else [])]
EMBED = ["llama-embed", *(["vllm-embed"] if SECOND_VLLM else [])]

MAKERS = {
    "llama": engines.llama,
    "llama-embed": engines.llama_embed,
    "vllm": engines.vllm,
    "vllm-embed": engines.vllm_embed,
}
NAMES = [*CHAT, *EMBED]


@pytest.fixture(scope="session")
def fleet() -> Iterator[dict[str, Engine]]:
    """Every engine by name, ready."""
    running = {name: MAKERS[name](name) for name in NAMES}
    try:
        for engine in running.values():
            engine.launch()
        for engine in running.values():
            engine.settle()
        yield running
    finally:
        for engine in running.values():
            engine.kill()


@asynccontextmanager
async def behind(engines: Iterable[Engine], **extra: Any) -> AsyncIterator[Gateway]:
    """A gateway over these engines, which open only to KEY; ``extra`` are further parts of its
    configuration."""
    backends = [
        {"name": engine.name, "url": engine.url, **({"api_key": engine.key} if engine.key else {})}
        for engine in engines
    ]
    keys = [{"name": "tests", "key": KEY, "models": ["*"]}]
    async with Gateway({"backends": backends, "auth": {"keys": keys}, **extra}) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gw(fleet: dict[str, Engine]) -> AsyncIterator[Gateway]:
    """The gateway over the whole fleet; ``anywhere`` is a public model on every chat engine."""
    targets = [
        {"backend": name, "model": name, "weight": weight}
        for weight, name in enumerate(CHAT, start=1)
    ]
    public = [{"name": "anywhere", "targets": targets}]
    async with behind(fleet.values(), models=public) as gateway:
        yield gateway


@pytest.fixture(params=CHAT)
def engine(request: pytest.FixtureRequest, fleet: dict[str, Engine]) -> Engine:
    """Each chat engine in turn."""
    return fleet[request.param]


@pytest.fixture(params=EMBED)
def shelf(request: pytest.FixtureRequest, fleet: dict[str, Engine]) -> Engine:
    """Each embedding engine in turn."""
    return fleet[request.param]


@dataclass(frozen=True, slots=True)
class Road:
    """One way for the SDK to an engine. No retries: a test must see the first answer."""

    url: str
    key: str

    def sync(self, key: str | None = None) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60)

    def concurrent(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)


@pytest.fixture
def road(gw: Gateway) -> Road:
    """Through the gateway."""
    return Road(gw.url, KEY)


@pytest.fixture
def sdk(road: Road) -> Iterator[OpenAI]:
    """The official client, through the gateway."""
    with road.sync() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def asdk(road: Road) -> AsyncIterator[AsyncOpenAI]:
    """The official asynchronous client, through the gateway."""
    async with road.concurrent() as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests share the gateway's event loop, and carry the marker of this suite."""
    for item in items:
        item.add_marker(pytest.mark.engine)
        if pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was driven, and in one line what was not and why."""
    terminalreporter.write_line(f"real engines driven: {', '.join(NAMES)}")
    if not HAVE_VLLM:
        terminalreporter.write_line("vLLM was left out: it is not installed (see above)")
    elif not SECOND_VLLM:
        need = ROOM_FOR_TWO >> 30
        terminalreporter.write_line(f"vllm-embed was left out: under {need} GiB of free memory")
