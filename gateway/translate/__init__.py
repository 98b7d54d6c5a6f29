"""The translations: which surface can be served through which other one, in order of preference.

OpenAI's chat completions are the hub. A surface without a bridge is native or not there at all."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.types import Op, Wire

from .bridge import Bridge

BRIDGES: Mapping[tuple[Wire, Op], tuple[Bridge, ...]] = {}
