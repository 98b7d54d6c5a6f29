"""What goes to an engine: the caller's bytes, with as little changed as the engine needs."""

import json
from dataclasses import replace

import orjson
import pytest

from gateway.core.catalog import resolve
from gateway.core.headers import (
    MOST_NAMES,
    Verdicts,
    envelopes,
    head_of,
    passed,
    proven,
    retyped,
    translated,
)
from gateway.core.prepare import prepare, prepare_detour, wants_usage
from gateway.core.types import Backend, Caller, Op, PublicModel, Target, Wire
from tests.core.fleets import call, catalog, rows
from tests.core.test_plan import By

BODY = b'{ "x":1.00, "model" : "chat" ,"messages":[{"role":"user","content":"h\\u00e9"}]}'


def asked(body=BODY, op=Op.CHAT, **more):
    doc = orjson.loads(body)
    return call(doc["model"], op, body=body, doc=doc, stream=doc.get("stream") is True, **more)


def place(runtime="vllm", model="org/m1"):
    public = PublicModel("chat", (Target("a", model),))
    return resolve(catalog(public, a=f"{runtime} {model}"), "chat", "", Caller()).places[0]


def test_only_the_models_name_is_changed():
    sent = prepare(asked(), place(), add_usage=False)
    assert sent.body == BODY.replace(b'"chat"', b'"org/m1"')
    assert sent.path == "/v1/chat/completions"


def test_nothing_is_changed_when_the_name_is_the_engines_own():
    same = asked(BODY.replace(b"chat", b"org/m1"))
    assert prepare(same, place(), add_usage=False).body is same.body


def test_usage_is_asked_for_by_a_first_member_and_every_other_byte_stays():
    sent = prepare(asked(), place(), add_usage=True)
    extra = b'"stream_options":{"include_usage":true},'
    assert sent.body == b"{" + extra + BODY[1:].replace(b'"chat"', b'"org/m1"')
    assert sent.strip_usage


def test_stream_options_of_the_caller_are_kept_beside_ours():
    body = b'{"model":"chat","stream":true,"stream_options":{"x":1,"include_usage":false}}'
    sent = prepare(asked(body), place(), add_usage=True)
    assert json.loads(sent.body)["stream_options"] == {"x": 1, "include_usage": True}


@pytest.mark.parametrize(
    ("mode", "limited", "options", "wanted"),
    [
        ("limits", True, None, True),
        ("limits", False, None, False),
        ("always", False, None, True),
        ("never", True, None, False),
        ("always", True, {"include_usage": True}, False),
        ("always", False, {"include_usage": False}, True),
    ],
)
def test_usage_is_asked_for_by_mode_and_only_where_the_caller_did_not(
    mode, limited, options, wanted
):
    doc = {"model": "chat", "stream": True}
    if options is not None:
        doc["stream_options"] = options
    caller = Caller(tokens_per_minute=100 if limited else None)
    assert wants_usage(asked(json.dumps(doc).encode()), caller, mode) is wanted


def test_a_whole_answer_is_never_asked_for_stream_usage():
    assert not wants_usage(asked(), Caller(), "always")


def head(pairs, runtime="vllm", backend=None, length=5):
    backend = backend or Backend("a", "http://a:1")
    sent = envelopes(backend, rows(runtime, ""))[0]
    crossing = passed([(name.encode(), value.encode()) for name, value in pairs], sent.passed)
    made = head_of("POST", "/v1/x", crossing, sent=sent, request_id="rid", length=length)
    text = made.decode()
    return [line.split(": ", 1) for line in text.split("\r\n")[1:] if line]


CALLER = [
    ("Host", "gateway"),
    ("Authorization", "Bearer callers"),
    ("X-API-Key", "callers"),
    ("Cookie", "session=1"),
    ("Proxy-Authorization", "Basic x"),
    ("Connection", "keep-alive, X-Hop"),
    ("X-Hop", "1"),
    ("TE", "trailers"),
    ("Accept-Encoding", "gzip"),
    ("X-Portico-Session-Id", "s"),
    ("X-Request-Id", "callers-id"),
    ("User-Agent", "sdk"),
    ("traceparent", "00-1"),
]


def test_names_of_headers_are_remembered_up_to_a_bound_and_judged_beyond_it():
    known = Verdicts(frozenset({b"cookie"}), (b"x-portico-",))
    for number in range(2 * MOST_NAMES):
        assert known[b"X-%d" % number]
    assert len(known) == MOST_NAMES
    assert (known[b"COOKIE"], known[b"X-Portico-Key"], known[b"Connection"]) == (False, False, None)
    assert len(known) == MOST_NAMES


def test_credentials_hop_by_hop_and_own_headers_stay_behind():
    sent = {name.lower(): value for name, value in head(CALLER)}
    assert sent == {
        "host": "a:1",
        "user-agent": "sdk",
        "traceparent": "00-1",
        "accept-encoding": "identity",
        "x-request-id": "rid",
        "content-length": "5",
    }


def test_the_backends_own_key_is_sent_in_its_own_way():
    secret = Backend("a", "http://a:1", secret="up")
    assert ["Authorization", "Bearer up"] in head(CALLER, backend=secret)
    assert ["x-api-key", "up"] in head(CALLER, "anthropic", secret)


def test_passthrough_forwards_the_callers_own_key_and_only_there():
    through = Backend("a", "http://a:1", secret="passthrough")
    sent = head(CALLER, backend=through)
    assert ["Authorization", "Bearer callers"] in sent
    assert ["X-API-Key", "callers"] in sent
    assert not [line for line in sent if line[0] == "Cookie"]


def test_a_header_that_the_gateway_sets_is_not_sent_twice():
    names = [name.lower() for name, _ in head([*CALLER, ("anthropic-version", "old")], "anthropic")]
    assert len(names) == len(set(names))


def test_an_unannounced_length_is_sent_chunked():
    assert ["Transfer-Encoding", "chunked"] in head([], length=None)


def test_a_public_name_is_not_shown_to_a_tgi_that_would_take_it_for_an_adapter():
    """sheet: tgi 10, any model other than 'tgi' is an adapter id."""
    sent = prepare(asked(), replace(place("tgi")), add_usage=False)
    assert json.loads(sent.body)["model"] == "org/m1"


def limited(*names, op=Op.CHAT):
    found = place()
    params = ((Wire.OPENAI, op, frozenset(names)),)
    return replace(found, backend=replace(found.backend, params=params))


def test_only_the_supported_params_reach_a_provider_and_never_less_than_a_request():
    body = b'{"model":"chat","messages":[],"temperature":1,"top_k":5,"n":2}'
    sent = json.loads(prepare(asked(body), limited("temperature", "seed"), add_usage=False).body)
    assert sent == {"model": "org/m1", "messages": [], "temperature": 1}


@pytest.mark.parametrize("field", ["messages", "prompt", "input"])
def test_what_makes_the_request_is_never_dropped(field):
    body = orjson.dumps({"model": "chat", field: "x", "other": 1})
    sent = json.loads(prepare(asked(body), limited(), add_usage=False).body)
    assert sent == {"model": "org/m1", field: "x"}


def test_usage_is_only_asked_for_where_the_provider_takes_the_option():
    body = b'{"model":"chat","messages":[],"stream":true}'
    sent = prepare(asked(body), limited("stream"), add_usage=True)
    assert (sent.strip_usage, "stream_options" in json.loads(sent.body)) == (False, False)
    sent = prepare(asked(body), limited("stream", "stream_options"), add_usage=True)
    assert (sent.strip_usage, "stream_options" in json.loads(sent.body)) == (True, True)


def test_the_params_of_one_surface_say_nothing_of_another():
    sent = prepare(asked(), limited("n", op=Op.EMBEDDINGS), add_usage=False)
    assert json.loads(sent.body)["x"] == 1


def test_a_checked_address_is_asked_under_the_name():
    backend = Backend("p", "http://10.0.0.7:80", host="engine.example")
    assert b"Host: engine.example\r\n" in envelopes(backend, rows("vllm", ""))[0].fixed + b"\r\n"


CHAT = By(Wire.OPENAI, Op.CHAT)


def turned(doc, runtime="vllm", by=CHAT, *, add_usage=False):
    return prepare_detour(asked(), place(runtime), by, doc, add_usage)


def test_a_translated_request_has_the_engines_name_path_and_quirks():
    sent = turned({"model": "chat", "messages": [], "stop": "x"}, "tgi")
    assert sent.path == "/v1/chat/completions"
    assert json.loads(sent.body) == {"model": "org/m1", "messages": [], "stop": ["x"]}


def test_a_tokenizer_gets_a_chat_where_it_takes_one_and_without_the_quirks_of_a_chat():
    counting = By(Wire.OPENAI, Op.TOKENIZE, chat=True)
    sent = turned({"messages": [], "stop": "x"}, "tgi", counting)
    assert sent.path == "/chat_tokenize"
    assert json.loads(sent.body)["stop"] == "x"


def test_usage_that_nobody_else_asks_for_is_asked_for_and_taken_out_again():
    sent = turned({"stream": True}, add_usage=True)
    assert sent.strip_usage
    assert json.loads(sent.body)["stream_options"] == {"include_usage": True}


def test_usage_that_the_translation_asks_for_stays():
    sent = turned({"stream_options": {"include_usage": True}}, add_usage=True)
    assert not sent.strip_usage


def test_a_surface_without_stream_options_is_not_asked_with_them():
    sent = turned({"stream": True}, "anthropic", By(Wire.ANTHROPIC, Op.MESSAGES), add_usage=True)
    assert not sent.strip_usage
    assert "stream_options" not in json.loads(sent.body)


SENT = (
    (b"Accept", b"*/*"),
    (b"Content-Type", b"text/plain"),
    (b"anthropic-beta", b"x"),
    (b"Authorization", b"Bearer k"),
    (b"X-Own", b"1"),
)


def test_headers_of_the_clients_dialect_stay_behind_when_a_request_is_translated():
    assert translated(SENT) == [
        (b"Authorization", b"Bearer k"),
        (b"X-Own", b"1"),
        (b"Content-Type", b"application/json"),
    ]


def test_a_key_that_is_passed_through_is_shown_in_the_engines_way():
    shown = proven(translated(SENT), "k", ("x-api-key", "{key}"))
    assert (b"x-api-key", b"k") in shown
    assert not [value for name, value in shown if name.lower() == b"authorization"]
    assert proven(SENT[:1], None, ("x-api-key", "{key}")) == [SENT[0]]


def test_headers_that_describe_a_body_go_with_it():
    told = [(b"Content-Length", b"3"), (b"ETag", b"x"), (b"X-Engine", b"1")]
    assert retyped(told, b"application/x-ndjson") == [
        (b"Content-Type", b"application/x-ndjson"),
        (b"X-Engine", b"1"),
    ]


def test_only_the_supported_params_of_the_engines_surface_survive_a_translation():
    doc = {"model": "chat", "messages": [], "temperature": 1, "seed": 2, "stream": True}
    sent = prepare_detour(asked(), limited("temperature"), CHAT, doc, True)
    assert json.loads(sent.body) == {"model": "org/m1", "messages": [], "temperature": 1}
    assert not sent.strip_usage
