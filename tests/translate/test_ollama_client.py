"""The official Ollama client reads what the translations make, over its own HTTP layer."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import ollama
import orjson
import pytest

from gateway.core.catalog import resolve
from gateway.core.errors import Refusal
from gateway.core.types import Caller, Doc, Op, Wire
from gateway.dialects import ollama as dialect
from gateway.translate import BRIDGES, ollama_pages
from gateway.translate.choose import choose
from gateway.translate.ollama_idle import answer as idle
from tests.backends.recorded import answer
from tests.translate.asks import asking, recorded, run
from tests.translate.test_ollama_pages import MIXED

VLLM = "vllm-0.32.0"
OPS = {
    "/api/chat": Op.CHAT,
    "/api/generate": Op.GENERATE,
    "/api/embed": Op.EMBED,
    "/api/embeddings": Op.EMBEDDINGS,
}
SENT: list[Doc] = []
"""What the engine was asked, newest last."""


def gateway(whole: Doc, stream: bytes) -> Callable[[httpx.Request], httpx.Response]:
    """The steps of the data plane without its sockets, in front of a recorded engine."""

    def serve(request: httpx.Request) -> httpx.Response:
        op, doc = OPS[request.url.path], orjson.loads(request.content)
        ask = asking(doc, model=doc["model"], stream=dialect.streams(op, doc))
        at_once = idle(op, ask)
        if at_once is not None:
            return httpx.Response(200, json=at_once)
        try:
            found = choose(BRIDGES[(Wire.OLLAMA, op)], ask)
        except Refusal as refusal:
            return httpx.Response(refusal.status, content=dialect.refuse(refusal, "rid"))
        assert found is not None
        bridge, asked = found
        SENT.append(asked.doc)
        if ask.stream:
            pieces = [stream[i : i + 7] for i in range(0, len(stream), 7)]
            return httpx.Response(200, content=run(bridge.stream(ask), *pieces))
        return httpx.Response(200, content=orjson.dumps(bridge.reply(whole, ask)))

    return serve


def client(serve: Callable[[httpx.Request], httpx.Response]) -> ollama.Client:
    return ollama.Client(transport=httpx.MockTransport(serve))


def of(case: str) -> ollama.Client:
    return client(gateway(answer(VLLM, case).doc or {}, recorded(VLLM, f"{case}_stream")))


HELLO = [{"role": "user", "content": "Hello"}]


def test_it_chats_whole_and_streamed() -> None:
    chat = of("chat")
    whole = chat.chat("tiny-chat", HELLO)
    parts = list(chat.chat("tiny-chat", HELLO, stream=True))
    assert whole.message.content
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")


def test_it_calls_python_functions() -> None:
    def get_weather(city: str) -> str:
        """The weather.

        Args:
          city: where
        """
        return city

    for stream in (False, True):
        found = of("chat_tools_auto").chat("m", HELLO, tools=[get_weather], stream=stream)
        parts = list(found) if stream else [found]
        (call,) = [call for part in parts for call in part.message.tool_calls or ()]
        assert get_weather(**call.function.arguments) == "Paris"
    tool = SENT[-1]["tools"][0]
    assert (tool["type"], tool["function"]["name"]) == ("function", "get_weather")


def test_what_it_was_told_can_be_said_again() -> None:
    chat = of("chat_tools_auto")
    said = chat.chat("m", HELLO).message
    chat.chat("m", [*HELLO, said, {"role": "tool", "tool_name": "get_weather", "content": "sun"}])
    _, call, result = SENT[-1]["messages"]
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert orjson.loads(call["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}


def test_it_sends_pictures_and_schemas() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(60)
    of("chat").generate("m", "What is it?", images=[png], format={"type": "object"}, stream=False)
    doc = SENT[-1]
    url = doc["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert doc["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_it_preloads_and_unloads_without_an_engine() -> None:
    before = len(SENT)
    assert of("chat").generate("m").done_reason == "load"
    assert of("chat").chat("m", keep_alive=0).done_reason == "unload"
    assert len(SENT) == before


def test_it_embeds_on_both_routes() -> None:
    folder = "vllm-0.32.0-embedding"
    two = client(gateway(answer(folder, "embeddings_two").doc, b""))
    assert len(two.embed("m", ["a", "b"], dimensions=4).embeddings[0]) == 4
    one = client(gateway(answer(folder, "embeddings").doc, b""))
    assert len(one.embeddings("m", "a").embedding) > 4


def test_it_raises_what_is_refused_with_its_status() -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        of("chat").generate("m", "x", template="{{ .Prompt }}")
    assert caught.value.status_code == 501
    assert "'template'" in caught.value.error


def test_it_raises_what_cuts_a_stream() -> None:
    cut = dialect.cut(Op.CHAT, Refusal("backend_unreachable", "The engine went away."), "rid")
    first = b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":false}\n'
    broken = client(lambda request: httpx.Response(200, content=first + cut))
    with pytest.raises(ollama.ResponseError, match="went away"):
        list(broken.chat("m", HELLO, stream=True))


def test_it_lists_shows_and_sees_what_runs() -> None:
    docs = {
        "/api/tags": ollama_pages.tags(MIXED, MIXED.listed),
        "/api/ps": ollama_pages.ps(MIXED, MIXED.listed),
        "/api/show": ollama_pages.show("small", resolve(MIXED, "small", "", Caller())),
    }
    found = client(lambda request: httpx.Response(200, json=docs[request.url.path]))
    assert "tiny-chat" in {model.model for model in found.list().models}
    assert "small" in {model.model for model in found.ps().models}
    shown = found.show("small")
    assert shown.details is not None
    assert shown.details.parameter_size == "918.66K"
    assert "completion" in (shown.capabilities or [])
