"""What tests of the routes for administrators share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness import Gateway
from tests.rawclient import Reply, call

ADMIN = "an-admin-key-of-the-tests"
BEARER = (("Authorization", f"Bearer {ADMIN}"),)


def config(
    folder: Path, engines: Mapping[str, str], *, workers: int = 1, **sections: Any
) -> dict[str, Any]:
    """A configuration with a store in ``folder`` and these engines by name."""
    return {
        "server": {"workers": workers},
        "backends": [{"name": name, "url": url} for name, url in engines.items()],
        "auth": {"admin_keys": [ADMIN]},
        "store": {"url": f"sqlite://{folder}/portico.db"},
        **sections,
    }


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    doc: Any = None,
    headers: tuple[tuple[str, str], ...] = BEARER,
) -> Reply:
    """A request of an administrator."""
    body = b"" if doc is None else json.dumps(doc).encode()
    pairs = [*headers, ("Content-Type", "application/json")]
    return await call(gateway.url, method, path, pairs, body)
