"""The way to a provider: its certificate is verified, and no proxy of the environment is used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until

KEY = "cloud-key-of-the-tests"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def behind(engine: FakeEngine, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """The engine behind TLS: the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", engine.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()


@asynccontextmanager
async def provider(authority: trustme.CA, name: str) -> AsyncIterator[tuple[FakeEngine, int]]:
    """A provider with a certificate for ``name``, and its port on localhost."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    async with FakeEngine("openai", ["m"]) as engine, behind(engine, tls) as port:
        yield engine, port


def config(port: int) -> dict[str, Any]:
    url = f"https://localhost:{port}"
    entry = {"name": "cloud", "url": url, "runtime": "openai", "api_key": KEY, "models": ["m"]}
    return {"backends": [entry]}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_a_provider_with_a_trusted_certificate_is_used(
    authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with provider(authority, "localhost") as (engine, port):
        async with Gateway(config(port), env=env) as gw:
            for stream in (False, True):
                reply = await gw.chat("m", stream=stream)
                assert (reply.status, reply.header("X-Portico-Backend")) == (200, "cloud")
        assert engine.requests[0].header("authorization") == f"Bearer {KEY}"
        assert engine.requests[0].header("host") == f"localhost:{port}"


@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("other.example", True)])
async def test_a_provider_that_cannot_prove_who_it_is_gets_neither_key_nor_request(
    authority: trustme.CA, tmp_path: Path, name: str, trusted: bool
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")} if trusted else {}
    async with provider(authority, name) as (engine, port):
        async with Gateway(config(port), env=env, up=()) as gw:

            async def told() -> bool:
                return any("TLS: " in line["msg"] for line in gw.log_lines())

            await until(told, 5.0, "the log to say what is wrong")
            reply = await gw.chat("m")
            assert reply.status in (502, 503)
        assert not engine.requests
        assert not engine.probes


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxies_of_the_environment_are_not_used(
    authority: trustme.CA, tmp_path: Path, scheme: str
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    came = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    there = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), **dict.fromkeys(names, there)}
    env |= {"NO_PROXY": "", "no_proxy": ""}
    async with provider(authority, "localhost") as (engine, port):
        settings = config(port if scheme == "https" else engine.port)
        settings["backends"][0]["url"] = settings["backends"][0]["url"].replace("https", scheme)
        async with Gateway(settings, env=env) as gw:
            assert (await gw.chat("m")).status == 200
    server.close()
    assert not came
