"""Which proxy a backend is reached by."""

from __future__ import annotations

from pathlib import Path

import pytest

from .helpers import fault, loaded

CLOUD = "backends: [{name: a, runtime: openai, url: 'https://api.example.com/v1', proxy: %s}]"
PROXY = "http://proxy:3128"


def proxy(folder: Path, setting: str, **env: str) -> str:
    return loaded(folder, CLOUD % setting, env).backends[0].proxy


def test_none_is_used_that_was_not_asked_for(tmp_path: Path) -> None:
    text = (CLOUD % "x").replace(", proxy: x", "")
    env = {"HTTPS_PROXY": PROXY, "https_proxy": PROXY, "ALL_PROXY": PROXY}
    assert loaded(tmp_path, text, env).backends[0].proxy == ""


def test_one_may_be_named_with_a_user_and_a_password(tmp_path: Path) -> None:
    for url in (PROXY, "http://me:pw@proxy:3128", "http://[::1]:3128"):
        assert proxy(tmp_path, f"'{url}'", HTTPS_PROXY="http://other") == url


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, ""),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ({"ALL_PROXY": "proxy:3128"}, PROXY),
        ({"HTTP_PROXY": PROXY}, ""),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com"}, ""),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a.org, .example.com"}, ""),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "API.example.com"}, ""),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, ""),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "ample.com,api.example.org"}, PROXY),
    ],
)
def test_the_environments_is_taken_as_others_take_it(
    tmp_path: Path, env: dict[str, str], found: str
) -> None:
    assert proxy(tmp_path, "environment", **env) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CLOUD % "'socks5://proxy:1'", "must begin with http://"),
        (CLOUD % "'http://proxy/path'", "must be a proxy's address"),
        (CLOUD % "'http://'", "has no host"),
        ((CLOUD % f"'{PROXY}'").replace("https:", "http:"), "is for backends with an https://"),
    ],
)
def test_what_cannot_be_a_proxy_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert fault(tmp_path, text).startswith(f"backends[0].proxy: {said}")


def test_what_the_environment_names_is_refused_by_its_name_and_not_shown(tmp_path: Path) -> None:
    found = fault(tmp_path, CLOUD % "environment", {"ALL_PROXY": "socks5://hush@proxy:1"})
    assert found.startswith("backends[0].proxy: is ALL_PROXY of the environment, which must begin")
    assert "hush" not in found
