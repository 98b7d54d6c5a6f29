"""``portico serve --demo`` with its engine killed, as a curious user would do it."""

from __future__ import annotations

import psutil

from gateway.demo import ALIAS
from tests.harness import Gateway, until


async def test_a_demo_engine_that_was_killed_comes_back_and_the_log_says_so() -> None:
    async with Gateway(args=["--demo"], wait="/readyz", up=["demo"]) as gw:
        family = psutil.Process(gw.pid).children(recursive=True)
        engine = next(child for child in family if "gateway.demo.engine" in child.cmdline())
        engine.kill()

        async def back() -> bool:
            lines = [line["msg"] for line in gw.log_lines()]
            again = any("demo engine was started again" in line for line in lines)
            return again and (await gw.chat(ALIAS)).status == 200

        await until(back, 10.0, "the demo engine to be back")
        told = [line for line in gw.log_lines() if "demo engine ended" in line["msg"]]
        assert [line["level"].lower() for line in told] == ["warning"]
        assert "(signal 9)" in told[0]["msg"]
