"""The life of the process: start, drain, reload, refusals to start (INTERFACE 1)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from typing import Any

import pytest
import yaml

from gateway.core.keys import digest
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.steps import Gate
from tests.harness import JSON, ROOT, Gateway, chat_json, environment, free_port, until


def config_of(*engines: FakeEngine, **server: Any) -> dict[str, Any]:
    backends = [{"name": f"b{n}", "url": engine.url} for n, engine in enumerate(engines)]
    return {"server": server, "backends": backends}


async def run(*args: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """A command of the CLI to its end: exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *args,
        cwd=ROOT,
        env=environment(env or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(number: signal.Signals) -> None:
    gate = Gate()
    async with (
        FakeEngine() as engine,
        Gateway(config_of(engine, drain_timeout="10s")) as gw,
        gw.client() as client,
    ):
        engine.script.append(steps.stream(talk.chat_events("m"), gate=gate))
        gate.release(1)
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
        reply = await client.read_head()
        gw.signal(number)

        async def draining() -> bool:
            return (await gw.get("/readyz")).status == 503

        await until(draining, 3.0, "/readyz to turn 503")
        refused = await gw.chat("m")
        assert (refused.status, refused.kind) == (503, "draining")
        assert refused.header("Retry-After")
        assert (await gw.get("/healthz")).status == 200
        assert len(engine.requests) == 1
        gate.open()
        await client.read_body(reply)
        assert (reply.body, reply.whole) == (b"".join(talk.chat_events("m")), True)
        assert await gw.wait(5.0) == 0


async def test_an_idle_gateway_ends_at_once_with_0() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(config_of(engine, drain_timeout="30s")) as gw,
        gw.client() as idle,
    ):
        await idle.call("GET", "/healthz")
        gw.signal(signal.SIGTERM)
        assert await gw.wait(4.0) == 0


async def test_a_kept_connection_is_told_draining_too() -> None:
    gate = Gate()
    async with (
        FakeEngine() as engine,
        Gateway(config_of(engine, drain_timeout="10s")) as gw,
        gw.client() as busy,
        gw.client() as kept,
    ):
        engine.script.append(steps.stream(talk.chat_events("m"), gate=gate))
        gate.release(1)
        await busy.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
        await busy.read_head()
        assert (await kept.call("GET", "/healthz")).status == 200
        gw.signal(signal.SIGTERM)

        async def draining() -> bool:
            return (await gw.get("/readyz")).status == 503

        await until(draining, 3.0, "/readyz to turn 503")
        try:
            reply = await kept.call("POST", "/v1/chat/completions", [JSON], chat_json("m"))
            assert (reply.status, reply.kind) == (503, "draining")
        except (EOFError, OSError):
            pass
        assert len(engine.requests) == 1
        gate.open()
        assert await gw.wait(5.0) == 0


async def test_drain_timeout_ends_what_does_not_finish() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(config_of(engine, drain_timeout="500ms")) as gw,
        gw.client() as client,
    ):
        engine.script.append(steps.stream(talk.chat_events("m")[:2], end="hang"))
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
        reply = await client.read_head()
        gw.signal(signal.SIGTERM)
        assert await gw.wait(5.0) == 0
        await client.read_body(reply)
        assert not reply.whole
        assert b"[DONE]" not in reply.body


async def test_a_second_signal_ends_at_once() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(config_of(engine, drain_timeout="60s")) as gw,
        gw.client() as client,
    ):
        engine.script.append(steps.hang())
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m"))
        await engine.came()
        gw.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        gw.signal(signal.SIGTERM)
        await gw.wait(2.0)


async def test_a_reload_brings_a_new_backend_while_a_stream_goes_on() -> None:
    gate = Gate()
    async with (
        FakeEngine("vllm", ["old"]) as old,
        FakeEngine("vllm", ["new"]) as new,
        Gateway(config_of(old)) as gw,
        gw.client() as client,
    ):
        old.script.append(steps.stream(talk.chat_events("old"), gate=gate))
        gate.release(1)
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("old", stream=True))
        reply = await client.read_head()
        gw.write(config_of(old, new))
        gw.signal(signal.SIGHUP)

        async def served() -> bool:
            return (await gw.chat("new")).status == 200

        await until(served, 5.0, "the new backend to be served", pause=0.1)
        gate.open()
        await client.read_body(reply)
        assert (reply.body, reply.whole) == (b"".join(talk.chat_events("old")), True)
        await gw.rises("portico_config_reloads_total")


async def test_a_reload_takes_a_backend_away_but_not_from_its_streams() -> None:
    gate = Gate()
    async with (
        FakeEngine("vllm", ["going"]) as going,
        FakeEngine("vllm", ["staying"]) as staying,
        Gateway(config_of(going, staying)) as gw,
        gw.client() as client,
    ):
        going.script.append(steps.stream(talk.chat_events("going"), gate=gate))
        gate.release(1)
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("going", stream=True))
        reply = await client.read_head()
        only = config_of(going, staying)
        only["backends"] = only["backends"][1:]
        gw.write(only)
        gw.signal(signal.SIGHUP)

        async def gone() -> bool:
            return (await gw.chat("going")).status == 404

        await until(gone, 5.0, "the backend to be gone", pause=0.1)
        gate.open()
        await client.read_body(reply)
        assert reply.body == b"".join(talk.chat_events("going"))
        assert (await gw.chat("staying")).status == 200


@pytest.mark.parametrize("faulty", ["backends: [{name: x}]", "a: [", "unknown_key: 1"])
async def test_a_faulty_file_is_refused_and_the_running_configuration_kept(faulty: str) -> None:
    async with FakeEngine() as engine, Gateway(config_of(engine)) as gw:
        gw.write(faulty)
        gw.signal(signal.SIGHUP)

        async def counted() -> bool:
            return await gw.metric("portico_config_reloads_total") == 1

        await until(counted, 5.0, "the refused reload to be counted")
        assert (await gw.chat("m")).status == 200
        if "backends" in faulty:
            assert "backends[0].url" in gw.output()


async def test_a_reload_under_load_drops_no_request() -> None:
    async with FakeEngine() as engine, Gateway(config_of(engine)) as gw:
        stop = asyncio.Event()

        async def load() -> list[int]:
            seen = []
            while not stop.is_set():
                seen.append((await gw.chat("m", stream=bool(len(seen) % 2))).status)
            return seen

        clients = [asyncio.ensure_future(load()) for _ in range(4)]
        for _ in range(3):
            await asyncio.sleep(0.2)
            gw.signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        stop.set()
        seen = [status for client in clients for status in await client]
        assert set(seen) == {200}
        assert len(seen) > 20


async def test_a_dead_backend_at_the_start_is_no_reason_not_to_start() -> None:
    config = {
        "backends": [{"name": "dead", "url": f"http://127.0.0.1:{free_port()}", "models": ["lost"]}]
    }
    async with Gateway(config, up=()) as gw:
        assert (await gw.get("/healthz")).status == 200
        assert await gw.metric("portico_backend_up", backend="dead") == 0
        reply = await gw.chat("lost")
        assert (reply.status, reply.kind) == (503, "overloaded")


async def test_a_backend_that_comes_late_is_served() -> None:
    port = free_port()
    config = {"backends": [{"name": "late", "url": f"http://127.0.0.1:{port}"}]}
    async with Gateway(config, up=()) as gw, FakeEngine("vllm", ["m"], port=port):

        async def served() -> bool:
            return (await gw.chat("m")).status == 200

        await until(served, 15.0, "the late backend to be served", pause=0.2)


async def test_it_serves_without_any_configuration() -> None:
    async with FakeEngine("sglang", ["s"]) as engine:
        args = ["--backend", f"mine={engine.url}"]
        async with Gateway(None, args, up=["mine"]) as gw:
            assert (await gw.chat("s")).header("X-Portico-Backend") == "mine"


async def test_a_runtime_may_be_written_before_the_address() -> None:
    async with FakeEngine("vllm", ["m"]) as engine:
        args = ["--backend", f"b=vllm+{engine.url}"]
        async with Gateway(None, args, up=["b"]) as gw:
            assert (await gw.chat("m")).status == 200


async def test_backends_may_come_from_the_environment() -> None:
    async with FakeEngine("vllm", ["a"]) as one, FakeEngine("sglang", ["b"]) as two:
        env = {"PORTICO_BACKENDS": f"one={one.url},two={two.url}"}
        async with Gateway(None, env=env, up=["one", "two"]) as gw:
            assert {(await gw.chat(name)).status for name in ("a", "b")} == {200}


async def test_without_any_backend_it_is_alive_and_says_what_to_do() -> None:
    async with Gateway(None) as gw:
        assert (await gw.get("/healthz")).status == 200
        reply = await gw.get("/v1/models")
        assert (reply.status, reply.doc["data"]) == (200, [])
        reply = await gw.chat("anything")
        assert reply.status in {404, 503}


async def test_a_taken_port_is_named_with_the_option_to_use() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        status, out, err = await run(
            "serve", "--port", str(port), "--host", "127.0.0.1", "--no-discover"
        )
    assert status == 1
    said = out + err
    assert str(port) in said
    assert "--port" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("args", [["--nonsense"], ["serve", "--workers", "none"], ["dance"]])
async def test_wrong_usage_is_exit_status_2(args: list[str]) -> None:
    status, _, err = await run(*args)
    assert status == 2
    assert err
    assert "Traceback" not in err


async def test_a_faulty_configuration_is_exit_status_2_with_every_fault_by_key_path(
    tmp_path: Any,
) -> None:
    file = tmp_path / "portico.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "server": {"port": "many", "colour": "red"},
                "backends": [{"name": "a", "url": "http://x:1"}, {"name": "b", "url": "ftp://x"}],
            }
        )
    )
    for command in (["serve", "--no-discover"], ["check"]):
        status, _, err = await run(*command, "--config", str(file))
        assert status == 2
        for path in ("server.port", "server.colour", "backends[1].url"):
            assert f"{path}: " in err, path
        assert "Traceback" not in err


async def test_a_missing_configuration_file_is_exit_status_2() -> None:
    status, _, err = await run("serve", "--config", "/nonexistent/portico.yaml")
    assert status == 2
    assert "/nonexistent/portico.yaml" in err


async def test_check_prints_what_it_resolved_to_with_secrets_masked(tmp_path: Any) -> None:
    file = tmp_path / "portico.yaml"
    file.write_text(
        "backends: [{name: gpu1, url: '${WHERE:-http://10.0.0.1:8000}', api_key: '${KEY}'}]\n"
        "auth: {keys: [{name: team, key: sk-very-secret}], admin_keys: [sk-admin-secret]}\n"
    )
    status, out, err = await run("check", "--config", str(file), env={"KEY": "sk-up-secret"})
    assert status == 0
    assert "http://10.0.0.1:8000" in out
    assert not any(word in out + err for word in ("very-secret", "admin-secret", "up-secret"))


async def test_the_engine_never_sees_more_than_max_concurrency() -> None:
    async with FakeEngine() as engine:
        config = {"backends": [{"name": "b", "url": engine.url, "max_concurrency": 3}]}
        async with Gateway(config) as gw:
            engine.always = steps.stream(talk.chat_events("m"), gap=0.01)
            replies = await asyncio.gather(*(gw.chat("m", stream=True) for _ in range(20)))
            assert engine.most_at_once == 3
            for reply in replies:
                assert reply.status == 200 or (reply.status, reply.kind) == (503, "overloaded")
                assert reply.status == 200 or reply.header("Retry-After")
            assert (await gw.chat("m")).status == 200, "the places are given back"


async def test_places_are_given_back_by_clients_that_leave() -> None:
    async with FakeEngine() as engine:
        config = {"backends": [{"name": "b", "url": engine.url, "max_concurrency": 1}]}
        async with Gateway(config) as gw:
            for _ in range(3):
                engine.script.append(steps.hang())
                async with gw.client() as client:
                    await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m"))
                    await engine.came(len(engine.requests) + 1)
                await asyncio.wait_for(engine.requests[-1].aborted.wait(), 1.0)

            async def served() -> bool:
                return (await gw.chat("m")).status == 200

            await until(served, 1.0, "the place to be free again")


async def test_several_workers_serve_as_one() -> None:
    async with FakeEngine() as engine, Gateway(config_of(engine), ["--workers", "2"]) as gw:
        replies = [await gw.chat("m", stream=bool(n % 2)) for n in range(12)]
        assert {(reply.status, reply.whole) for reply in replies} == {(200, True)}
        await gw.rises("portico_requests_total", by=12, model="m", status="200")
        gw.signal(signal.SIGTERM)
        assert await gw.wait(6.0) == 0


async def test_an_address_that_leads_back_to_the_gateway_is_no_engine() -> None:
    gw = Gateway(None, up=())
    gw.args += ["--backend", f"me={gw.url}"]
    async with gw:
        assert (await gw.get("/v1/models")).doc["data"] == []
        assert await gw.metric("portico_backend_up", backend="me") == 0
        assert (await gw.chat("me:anything", timeout=3)).status in {404, 503}


async def test_a_new_key_is_the_last_word_printed_and_its_hash_opens_the_gateway() -> None:
    status, out, err = await run("keys", "new", "team-b")
    assert status == 0, err
    key = out.split()[-1]
    entry = {"name": "team-b", "key": digest(key)}
    auth = {"auth": {"keys": [entry]}}
    async with FakeEngine() as engine, Gateway({**config_of(engine), **auth}) as gw:
        assert (await gw.chat("m")).status == 401
        assert (await gw.chat("m", [("Authorization", f"Bearer {key}")])).status == 200
        assert key not in gw.output()


async def test_doctor_explains_what_is_wrong_with_its_remedy(tmp_path: Any) -> None:
    async with FakeEngine("sglang", ["s"]) as engine:
        config = config_of(engine)
        config["backends"].append({"name": "dead", "url": f"http://127.0.0.1:{free_port()}"})
        file = tmp_path / "portico.yaml"
        file.write_text(yaml.safe_dump(config))
        status, out, err = await run("doctor", "--json", "--config", str(file))
        assert status in {0, 1}
        found = json.loads(out)
        text = json.dumps(found)
        assert "sglang" in text
        assert "dead" in text
        assert "Traceback" not in out + err
        _, out, _ = await run("doctor", "--config", str(file))
        assert "dead" in out
