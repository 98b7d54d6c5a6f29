"""The proxy on the way to a backend, where one is wanted: named, or the environment's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from .addresses import proxy_url, split_runtime
from .faults import Faults
from .model import BackendDoc

ENVIRONMENT = "environment"

VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Where the environment names a proxy for https, as curl reads them."""


def proxies(docs: Sequence[BackendDoc], env: Mapping[str, str], faults: Faults) -> list[str]:
    """The proxy of each backend, '' for the direct way."""
    found = []
    for i, doc in enumerate(docs):
        try:
            found.append(_proxy(doc, env))
        except ValueError as error:
            faults.add(("backends", i, "proxy"), str(error))
    return found


def _proxy(doc: BackendDoc, env: Mapping[str, str]) -> str:
    if doc.proxy is None:
        return ""
    setting, url = doc.proxy.get_secret_value(), split_runtime(doc.url or "")[1]
    if not url.startswith("https://"):
        raise ValueError("is for backends with an https:// address")
    if setting != ENVIRONMENT:
        return setting
    name = next((name for name in VARIABLES if env.get(name)), None)
    if name is None or _bypassed(urlsplit(url).netloc, env):
        return ""
    text = env[name]
    try:
        return proxy_url(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"is {name} of the environment, which {error}") from None


def _bypassed(place: str, env: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host, a domain that it is in, or everything; with a port, that
    one only."""
    host = urlsplit(f"//{place}").hostname or ""
    listed = (env.get("no_proxy") or env.get("NO_PROXY") or "").lower().split(",")
    names = [name.strip().removeprefix(".") for name in listed if name.strip()]
    return any(
        name in ("*", host, place) or host.endswith(f".{name}") or place.endswith(f".{name}")
        for name in names
    )
