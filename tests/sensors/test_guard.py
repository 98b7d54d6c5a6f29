"""Where a provider's address leads."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from gateway.core.addresses import PRIVATE, Address, networks
from gateway.sensors.guard import NOWHERE, ForbiddenError, Resolve, Spot, interfaces, lookup, spot

ALLOW = networks(PRIVATE)


def answering(*addresses: str) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [ip_address(one) for one in addresses]

    return resolve


async def at(url: str, *addresses: str, used: str = "") -> Spot:
    return await spot(url, 8000, ALLOW, used=used, resolve=answering(*addresses))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "http://[::1]:8000/x",
        "http://0x7f.1:8000",
        "http://2130706433:8000",
        "http://[::ffff:127.0.0.1]:8000",
        "http://169.254.169.254",
        "http://2852039166/latest",
        "http://0251.0376.0251.0376",
        "http://[fd00:ec2::254]",
        "http://[::ffff:a9fe:a9fe]",
        "http://metadata.google.internal",
        "https://metadata.google.internal",
        "http://0.0.0.0:9000",
    ],
)
async def test_itself_and_metadata_services_are_refused_in_every_form(url: str) -> None:
    with pytest.raises(ForbiddenError):
        await spot(url, 8000, ALLOW)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_is_refused_for_any_of_its_addresses(scheme: str) -> None:
    with pytest.raises(ForbiddenError, match="leads to the address of a cloud's metadata service"):
        await at(f"{scheme}://engine.example", "8.8.8.8", "169.254.169.254")


async def test_its_own_port_on_this_hosts_own_address_is_itself() -> None:
    outside = [str(one) for one in interfaces() if not one.is_loopback and one.version == 4]
    for address in outside:
        with pytest.raises(ForbiddenError, match="this gateway itself"):
            await at("http://engine.example:8000", address)


async def test_the_checked_address_is_what_is_connected_to() -> None:
    found = await at("http://engine.example:9000/v", "10.0.0.7", "10.0.0.8")
    assert found == Spot("http://10.0.0.7:9000/v", "engine.example:9000", True)
    found = await at("http://engine.example", "fd12::1")
    assert found == Spot("http://[fd12::1]:80", "engine.example", True)


async def test_over_https_the_certificate_has_to_prove_the_name() -> None:
    assert await at("https://engine.example/v", "8.8.8.8") == Spot(
        "https://engine.example/v", "", True
    )


async def test_an_address_is_kept_while_the_name_leads_there() -> None:
    used = "http://10.0.0.8:80"
    assert (await at("http://engine.example", "10.0.0.7", "10.0.0.8", used=used)).url == used
    assert (await at("http://engine.example", "10.0.0.7", used=used)).url == "http://10.0.0.7:80"


async def test_a_name_that_leads_nowhere_is_never_resolved_by_anybody_else() -> None:
    found = await at("http://engine.example")
    assert found == Spot(f"http://[{NOWHERE}]:80", "engine.example", False)
    used = "http://10.0.0.8:80"
    assert await at("http://engine.example", used=used) == Spot(used, "engine.example", False)


async def test_a_name_that_comes_to_lead_elsewhere_is_refused_then() -> None:
    assert (await at("http://engine.example", "10.0.0.8")).found
    with pytest.raises(ForbiddenError):
        await at("http://engine.example", "127.0.0.1", "169.254.169.254", used="http://10.0.0.8:80")


async def test_an_unknown_name_has_no_address() -> None:
    assert await lookup("name.invalid", 80) == ()
