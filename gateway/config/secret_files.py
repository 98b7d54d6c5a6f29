"""``*_file``: secrets that stand in files of their own, read into the place they are meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from .faults import Faults, Step

MAX_BYTES = 64 << 10


class Unusable(ValueError):
    """The file gives no secret; the message names the file and the reason."""


def read_secret(path: Path) -> str:
    """The text of a file without the line break at its end. Raises Unusable."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not UTF-8 text") from None
    if not text.strip():
        raise Unusable(f"{path} is empty; put the secret into it")
    if len(data) > MAX_BYTES:
        raise Unusable(f"{path} is over 64 KiB; that is no secret")
    return text


def fetch(tree: dict[str, Any], base: Path, faults: Faults) -> dict[str, Any]:
    """The tree with what the files hold beside each ``*_file``. Relative paths begin at ``base``,
    the folder of the configuration file. Shapes that are wrong are left for the validation."""
    auth = tree.get("auth")
    found = dict(tree)
    backends = _each(tree.get("backends"), ("backends",), "api_key", base, faults)
    found["backends"] = _agents(_lines(backends), base, faults)
    store = _one(tree.get("store"), ("store",), "url", base, faults)
    found["store"] = _one(store, ("store",), "secret", base, faults)
    if isinstance(auth, dict):
        keys = _each(auth.get("keys"), ("auth", "keys"), "key", base, faults)
        found["auth"] = _admins({**auth, "keys": keys}, base, faults)
    return found


def _names_a_file(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _each(items: Any, path: tuple[Step, ...], name: str, base: Path, faults: Faults) -> Any:
    if not isinstance(items, list):
        return items
    return [_one(item, (*path, i), name, base, faults) for i, item in enumerate(items)]


def _one(item: Any, path: tuple[Step, ...], name: str, base: Path, faults: Faults) -> Any:
    """``item`` with ``name`` read from its ``name_file``, if it has one."""
    at = (*path, f"{name}_file")
    file = item.get(at[-1]) if isinstance(item, dict) else None
    if not _names_a_file(file):
        return item
    if item.get(name) is not None:
        faults.add(at, f"stands beside '{name}'; keep one of the two")
        return item
    try:
        return {**item, name: read_secret(base / file)}
    except Unusable as error:
        faults.add(at, str(error))
        return item


def _lines(items: Any) -> Any:
    """Backends with the lines of ``api_key_file`` as keys of their own, where it has several."""
    if not isinstance(items, list):
        return items
    return [
        {**item, "api_key": lines}
        if isinstance(item, dict)
        and _names_a_file(item.get("api_key_file"))
        and isinstance(key := item.get("api_key"), str)
        and len(lines := [line.strip() for line in key.splitlines() if line.strip()]) > 1
        else item
        for item in items
    ]


def _agents(items: Any, base: Path, faults: Faults) -> Any:
    """Backends with the keys of their GPU agents."""
    if not isinstance(items, list):
        return items
    return [
        {**item, "gpus": _one(item["gpus"], ("backends", i, "gpus"), "key", base, faults)}
        if isinstance(item, dict) and "gpus" in item
        else item
        for i, item in enumerate(items)
    ]


def _admins(auth: dict[str, Any], base: Path, faults: Faults) -> dict[str, Any]:
    """``auth`` with the lines of ``admin_keys_file`` after its ``admin_keys``."""
    file = auth.get("admin_keys_file")
    given = auth.get("admin_keys") or []
    if not _names_a_file(file) or not isinstance(given, list):
        return auth
    try:
        lines = read_secret(base / file).splitlines()
    except Unusable as error:
        faults.add(("auth", "admin_keys_file"), str(error))
        return auth
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for place, (number, _) in enumerate(keys, len(given)):
        faults.origins["auth", "admin_keys", place] = f"line {number} of {base / file}"
    return {**auth, "admin_keys": given + [key for _, key in keys]}
