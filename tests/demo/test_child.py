"""The embedded engine starts by itself, answers, and never outlives who started it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import urllib.request
from pathlib import Path

import psutil
import pytest

import gateway.demo
from gateway.demo import ALIAS, MODEL, available
from gateway.demo.child import DemoEngine, DemoError
from tests.harness import ROOT, until


def ask(url: str) -> str:
    """The engine's answer to a greeting."""
    body = {"model": ALIAS, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def children() -> list[psutil.Process]:
    return psutil.Process().children()


async def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_it_answers_until_it_is_stopped() -> None:
    before = children()
    engine = DemoEngine()
    url = await engine.start()
    assert url.startswith("http://127.0.0.1:")
    assert await asyncio.to_thread(ask, url) == "Hello! How can I help you today?"
    await engine.stop()
    assert children() == before
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, url)


async def test_it_can_be_started_again() -> None:
    engine = DemoEngine()
    await engine.start()
    await engine.stop()
    await engine.stop()
    url = await engine.start()
    assert await asyncio.to_thread(ask, url)
    await engine.stop()


PARENT = textwrap.dedent("""
    import asyncio, os, sys, time
    from gateway.demo.child import DemoEngine

    async def main():
        await DemoEngine().start()
        # A worker that holds the engine's stdin open; only Linux sees through it.
        if sys.platform == "linux" and os.fork() == 0:
            time.sleep(60)
        print("started", flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
""")


async def test_it_dies_with_a_killed_parent_even_if_a_worker_lives_on(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    await parent.stdout.readline()
    family = psutil.Process(parent.pid).children()
    engine = next(child for child in family if "gateway.demo.engine" in child.cmdline())
    parent.kill()
    await until(lambda: gone(engine), 3.0, "the engine to end")
    for worker in family:
        if worker != engine:
            worker.kill()
    await parent.wait()


async def test_it_ends_when_its_stdin_does_and_on_sigterm() -> None:
    for end in ("stdin", "signal"):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway.demo.engine", "--port", "0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"ready http://127.0.0.1:")
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 3.0) in {0, -signal.SIGTERM}


async def test_too_slow_a_start_is_given_up_and_leaves_nothing_behind() -> None:
    before = children()
    with pytest.raises(DemoError, match=r"not ready after 0\.001 s.*--backend URL"):
        await DemoEngine().start(timeout=0.001)
    assert children() == before


async def test_an_engine_that_breaks_at_once_is_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shadow = tmp_path / "xllamacpp.py"
    shadow.write_text("raise RuntimeError('this processor is too old')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(DemoError, match=r"ended with status 1.*this processor is too old"):
        await DemoEngine().start()


def test_the_model_is_shipped_and_the_engine_available() -> None:
    assert available() is None
    assert MODEL.read_bytes()[:4] == b"GGUF"
    assert MODEL.stat().st_size < 4_000_000


async def test_without_the_package_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway.demo, "find_spec", lambda name: None)
    assert "pip install 'portico[demo]'" in (available() or "")
    with pytest.raises(DemoError, match="xllamacpp"):
        await DemoEngine().start()


async def test_without_the_model_the_reason_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gateway.demo, "MODEL", tmp_path / "none.gguf")
    assert "none.gguf" in (available() or "")
