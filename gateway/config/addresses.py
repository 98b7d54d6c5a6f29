"""Addresses as people paste them (backends, hosts, the store), checked and made plain."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_RUNTIME = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\+(?=https?:)", re.IGNORECASE)
_NAME_EQUALS = re.compile(r"([^=/:]*)=(.*)", re.DOTALL)
_ODD = re.compile(r"[^!-~]|[\\<>\"`{}|^]")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")
_SURFACES = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/models",
    "/messages",
    "/responses",
)
_STORES = ("sqlite", "redis", "rediss")


def split_name(text: str) -> tuple[str | None, str]:
    """``NAME=URL`` into its two parts; the name is None when there is only a URL."""
    match = _NAME_EQUALS.fullmatch(text.strip())
    return (match[1].strip(), match[2].strip()) if match else (None, text.strip())


def split_runtime(url: str) -> tuple[str | None, str]:
    """``RUNTIME+http://…`` into the runtime's name (lower case) and the URL."""
    match = _RUNTIME.match(url)
    return (match[1].lower(), url[match.end() :]) if match else (None, url)


def http_url(url: str) -> str:
    """An http or https URL in plain form: scheme and host in lower case, no trailing slash.

    Raises ValueError, never with the text itself, for another scheme, a missing host, a user or
    password, a query, a fragment, or characters that do not belong into a URL."""
    if "://" not in url:
        raise ValueError("has no scheme; write it as http://HOST:PORT")
    parts = _split(url)
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password; put the key into api_key")
    if "?" in url or "#" in url:
        raise ValueError("must end before any '?' or '#'")
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme.lower()}://{_host(parts)}{port}{parts.path.rstrip('/')}"


def backend_url(url: str) -> str:
    """A backend's base URL: as ``http_url``, and without the ``/v1`` that is often pasted along.
    Any other path is kept, since some engines live behind a prefix."""
    plain = http_url(url)
    if plain.endswith(_SURFACES):
        raise ValueError("must be the engine's base address; leave out /v1 and what follows")
    return plain.removesuffix("/v1").rstrip("/")


def proxy_url(url: str) -> str:
    """The URL of a proxy: http, a host, perhaps a port, a user and a password."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() != "http":
        raise ValueError("must begin with http:// (no other proxies are spoken to)")
    credentials, at, place = rest.rpartition("@")
    plain = http_url(f"http://{place}")
    if urlsplit(plain).path or _ODD.search(credentials):
        raise ValueError("must be a proxy's address, such as http://proxy:3128")
    return f"http://{credentials}{at}{plain.removeprefix('http://')}"


def _split(url: str) -> SplitResult:
    if _ODD.search(url):
        raise ValueError("has a space or another character that must not stand in a URL")
    try:
        parts = urlsplit(url)
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("has a host or port that cannot be; ports are 1 to 65535") from None
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host:
        raise ValueError("has no host; write it as http://HOST:PORT")
    if ":" in host:
        return f"[{host}]"
    if not _HOST.fullmatch(host):
        raise ValueError("has a host name with characters that cannot be in one")
    return host


def listen_host(value: str) -> str:
    """A name or address to listen on, IPv6 without its brackets. Raises ValueError."""
    host = value.strip().removeprefix("[").removesuffix("]")
    if "/" in host or host.count(":") == 1:
        raise ValueError("must be an address alone, such as 0.0.0.0; the port has its own setting")
    if ":" in host:
        try:
            ip_address(host)
        except ValueError:
            raise ValueError("is not an IPv6 address") from None
    elif not _HOST.fullmatch(host):
        raise ValueError("must be an address or host name, such as 127.0.0.1, 0.0.0.0 or ::")
    return host


def store_url(url: str) -> str:
    """``sqlite:///PATH``, ``redis://HOST…`` or ``rediss://HOST…`` as given. Raises ValueError."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in _STORES:
        raise ValueError("must be sqlite:///PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB")
    if scheme.lower() == "sqlite":
        if len(rest) < 2 or not rest.startswith("/") or not rest.isprintable():
            raise ValueError("must be sqlite:/// and the path of the file, with three slashes")
        return url
    parts = _split(url)
    _host(parts)
    if not re.fullmatch(r"/?[0-9]{0,4}", parts.path):
        raise ValueError("must end with the number of the database, such as redis://HOST:6379/0")
    return url


def without_password(url: str) -> str:
    """``url`` with whatever stands before an ``@`` masked."""
    scheme, found, rest = url.partition("://")
    credentials, at, tail = rest.rpartition("@")
    return f"{scheme}{found}***@{tail}" if at and credentials else url


def name_for(url: str) -> str:
    """A backend's name from its URL: ``http://127.0.0.1:8001`` is ``127.0.0.1-8001``."""
    netloc = urlsplit(url).netloc.replace(":", "-")
    return re.sub(r"[^A-Za-z0-9._-]", "", netloc).strip("-")[:60] or "backend"
