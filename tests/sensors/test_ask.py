"""One question, and every way in which a server may fail to answer it."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from gateway.core.health import Reply
from gateway.core.types import Backend, Timeouts
from gateway.sensors.ask import Asker, Heard, parsed
from tests.harness import free_port
from tests.sensors.stub import ALPHA, Act, Stub, at, drip, flood, hang, hang_up, page, raw


async def ask(stub: Stub, within: float = 1.0, **other: str) -> Heard:
    async with Asker() as asker:
        return await asker.get(at(stub, **other), ALPHA, "/x", within)


async def test_an_answer_comes_with_status_lower_case_headers_body_and_json() -> None:
    async with Stub({"/x": page({"a": [1]}, 200, "X-Thing: Yes")}) as stub:
        heard = await ask(stub)
    assert (heard.status, heard.doc, heard.reply) == (200, {"a": [1]}, Reply.ANSWERED)
    assert heard.headers["x-thing"] == "Yes"
    assert 0 < heard.took < 1


@pytest.mark.parametrize(
    ("act", "reply", "words"),
    [
        (hang, Reply.SLOW, "timed out after 0.2 s"),
        (drip, Reply.SLOW, "timed out after 0.2 s"),
        (hang_up, Reply.CUT, "closed before"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"), Reply.CUT, "closed before"),
        (raw(b"220 mail.example ESMTP\r\n"), Reply.GARBLED, "not HTTP"),
        (raw(b"\x00\x01\x02\xff\r\n\r\n"), Reply.GARBLED, "not HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000 + b"\r\n\r\n"), Reply.GARBLED, "not HTTP"),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            Reply.GARBLED,
            "not HTTP",
        ),
    ],
)
async def test_what_is_no_answer_is_told_in_words(act: Act, reply: Reply, words: str) -> None:
    async with Stub({"/x": act}) as stub:
        heard = await ask(stub, 0.2)
    assert (heard.status, heard.reply) == (0, reply)
    assert words in heard.error


async def test_a_flood_is_cut_off_at_four_mebibytes() -> None:
    async with Stub({"/x": flood}) as stub:
        heard = await ask(stub, 5.0)
    assert (heard.reply, heard.error) == (Reply.GARBLED, "answered more than 4 MiB")


async def test_a_redirect_and_a_protocol_switch_are_answers_like_any_other() -> None:
    pages = {"/x": page("", 302, "Location: http://169.254.169.254/")}
    async with Stub(pages) as stub:
        assert (await ask(stub)).status == 302
        assert stub.paths == ["/x"]
    async with Stub(
        {"/x": raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")}
    ) as stub:
        assert (await ask(stub)).status in (0, 101)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nobody_listening_is_a_refused_connection(host: str) -> None:
    async with Asker() as asker:
        heard = await asker.get(Backend("b", f"http://{host}:{free_port()}"), None, "/", 1.0)
    assert (heard.reply, heard.error) == (Reply.REFUSED, "connection refused")


async def test_an_unknown_name_is_said_to_be_unknown() -> None:
    async with Asker() as asker:
        heard = await asker.get(Backend("b", "http://no-such-host.invalid"), None, "/", 5.0)
    assert heard.reply is Reply.UNREACHABLE
    assert heard.error == "the name no-such-host.invalid is not known to the resolver"


async def test_a_handshake_that_nobody_finishes_is_no_connection() -> None:
    # An address of the documentation range: packets to it go nowhere, or find no route at all.
    backend = Backend("b", "http://192.0.2.1:9", timeouts=Timeouts(connect=0.2))
    async with Asker() as asker:
        heard = await asker.get(backend, None, "/", 1.0)
    assert heard.reply in (Reply.UNREACHABLE, Reply.REFUSED)


async def test_tls_faults_name_tls() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page("what?", 400))
        await writer.drain()

    server = await asyncio.start_server(plain_http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Asker() as asker:
        plain = await asker.get(Backend("b", f"https://127.0.0.1:{port}"), None, "/x", 2.0)
    assert plain.reply is Reply.GARBLED
    assert plain.error.startswith("TLS: ")
    stub = Stub({"/x": page("secret")}, tls=context)
    async with stub, Asker() as asker:
        url = stub.url.replace("http:", "https:")
        unknown_ca = await asker.get(Backend("b", url), None, "/x", 2.0)
        wrong_scheme = await asker.get(Backend("b", stub.url), None, "/x", 2.0)
    assert unknown_ca.reply is Reply.GARBLED
    assert "certificate" in unknown_ca.error
    assert wrong_scheme.status == 0


async def test_the_key_goes_out_in_the_rows_header_and_nowhere_else() -> None:
    async with Stub({"/x": page()}) as stub:
        await ask(stub, secret="k1")
        await ask(stub)
        await ask(stub, secret="passthrough")
    with_key, *without = [headers for _, headers in stub.asked]
    assert with_key["authorization"] == "Bearer k1"
    assert "x-api-key" not in with_key
    assert not any("authorization" in headers for headers in without)


async def test_an_unknown_runtime_gets_the_key_in_both_usual_headers() -> None:
    async with Stub({"/x": page()}) as stub, Asker() as asker:
        await asker.get(at(stub, secret="k1"), None, "/x", 1.0)
    headers = stub.asked[0][1]
    assert (headers["authorization"], headers["x-api-key"]) == ("Bearer k1", "k1")


async def test_cookies_are_not_kept() -> None:
    async with Stub({"/x": page("", 200, "Set-Cookie: a=b; Path=/")}) as stub, Asker() as asker:
        await asker.get(at(stub), None, "/x", 1.0)
        await asker.get(at(stub), None, "/x", 1.0)
    assert "cookie" not in stub.asked[1][1]


@pytest.mark.parametrize(
    ("body", "doc"),
    [
        (b' {"a":1}', {"a": 1}),
        (b'"SGLang is running"', "SGLang is running"),
        (b"[1", None),
        (b"{" * 100_000, None),
        (b'{"a": NaN}', None),
        (b"\xff\xfe", None),
        (b"", None),
        (b"12", None),
    ],
)
def test_a_body_is_json_or_it_is_not(body: bytes, doc: object) -> None:
    assert parsed(body) == doc
