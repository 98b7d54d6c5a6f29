"""The way to a provider: its certificate is verified, and no proxy of the environment is used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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


@dataclass
class Proxy:
    """One that leads where it is asked to, or answers ``status``."""

    port: int = 0
    status: int = 200
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        writer.write(b"HTTP/1.1 %d Whatever\r\n\r\n" % self.status)
        if self.status != 200:
            writer.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, back), pump(there, writer))


@asynccontextmanager
async def a_proxy(status: int = 200) -> AsyncIterator[Proxy]:
    proxy = Proxy(status=status)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    yield proxy
    server.close()


@pytest.mark.parametrize("by", ["address", "environment"])
async def test_a_configured_proxy_leads_there_and_the_certificate_is_still_the_servers(
    authority: trustme.CA, tmp_path: Path, by: str
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with provider(authority, "localhost") as (engine, port), a_proxy() as proxy:
        settings = config(port)
        there = f"http://me:hu%2Fsh@127.0.0.1:{proxy.port}"
        settings["backends"][0]["proxy"] = there if by == "address" else "environment"
        env |= {"HTTPS_PROXY": there, "NO_PROXY": "elsewhere.example"} if by != "address" else {}
        async with Gateway(settings, env=env) as gw:
            for stream in (False, True):
                assert (await gw.chat("m", stream=stream)).status == 200
            output = gw.output()
    assert len(engine.requests) == 2
    assert {head.split()[1] for head in proxy.heads} == {f"localhost:{port}".encode()}
    assert all(b"Basic bWU6aHUvc2g=" in head for head in proxy.heads)
    assert not any(KEY.encode() in head for head in proxy.heads)
    assert "hu%2Fsh" not in output


async def test_a_proxy_that_refuses_is_named(authority: trustme.CA, tmp_path: Path) -> None:
    async with provider(authority, "localhost") as (engine, port), a_proxy(403) as proxy:
        settings = config(port)
        settings["backends"][0]["proxy"] = f"http://127.0.0.1:{proxy.port}"
        async with Gateway(settings, up=()) as gw:

            async def told() -> bool:
                words = "the proxy on the way there answers 403 to CONNECT"
                return any(words in line["msg"] for line in gw.log_lines())

            await until(told, 5.0, "the log to say what is wrong")
            assert (await gw.chat("m")).status in (502, 503)
        assert not engine.requests


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
