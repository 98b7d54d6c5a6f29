"""Where a provider may be."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import (
    PRIVATE,
    forbidden,
    forbidden_name,
    is_own,
    judge,
    literal,
    networks,
)

ALLOW = networks(PRIVATE)
METADATA = ip_address("169.254.169.254")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
    ],
)
def test_every_form_of_an_ipv4_address_is_that_address(host: str) -> None:
    assert literal(host) == METADATA


@pytest.mark.parametrize(
    "host",
    ["", "a", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "08.1.1.1", "4294967296", "10.x", "1..2"],
)
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert literal(host) is None


@given(st.ip_addresses(v=4))
def test_all_ways_to_write_an_address_are_read_alike(address: IPv4Address) -> None:
    number = int(address)
    octets = address.packed
    for text in (
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(o) for o in octets),
        ".".join(f"0{o:o}" for o in octets),
        f"{octets[0]}.{number & 0xFFFFFF}",
    ):
        assert literal(text) == address


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
    ],
)
def test_what_no_setting_can_allow(address: str) -> None:
    assert forbidden(ip_address(address), networks(["0.0.0.0/0", "::/0"]))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_need_no_permission(address: str) -> None:
    assert forbidden(ip_address(address), ()) is None


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.20.0.1", "192.168.1.1", "::1", "fd12::1", "::ffff:10.0.0.1"],
)
def test_private_addresses_are_as_allowed_as_the_list_says(address: str) -> None:
    assert forbidden(ip_address(address), ALLOW) is None
    assert "providers.allow" in (forbidden(ip_address(address), ()) or "")


def test_a_mapped_address_is_judged_by_the_one_inside() -> None:
    only_ten = networks(["10.0.0.0/8"])
    assert forbidden(IPv6Address("::ffff:10.0.0.1"), only_ten) is None
    assert forbidden(IPv6Address("::ffff:192.168.0.1"), only_ten)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_never_makes_it_better(address: IPv4Address) -> None:
    wrapped = (
        IPv6Address(0xFFFF << 32 | int(address)),
        IPv6Address(int(IPv6Address("64:ff9b::")) | int(address)),
        IPv6Address(0x2002 << 112 | int(address) << 80),
    )
    if forbidden(address, ALLOW):
        assert all(forbidden(one, ALLOW) for one in wrapped)


def test_the_gateway_itself_is_its_port_on_any_address_of_this_host() -> None:
    own = {ip_address("10.0.0.5")}
    for address in ("127.0.0.1", "127.9.9.9", "::1", "10.0.0.5", "::ffff:127.0.0.1", "0.0.0.0"):
        assert is_own(ip_address(address), 8000, 8000, own), address
        assert not is_own(ip_address(address), 8001, 8000, own)
    assert not is_own(ip_address("10.0.0.6"), 8000, 8000, own)


def test_one_bad_address_behind_a_name_is_enough() -> None:
    found = [ip_address("8.8.8.8"), METADATA]
    assert judge(found, 80, own_port=8000, own=(), allow=ALLOW)
    assert judge(found[:1], 80, own_port=8000, own=(), allow=ALLOW) is None


@pytest.mark.parametrize(
    "name", ["metadata.google.internal", "METADATA.google.internal.", "metadata"]
)
def test_names_of_metadata_services_need_no_answer_to_be_refused(name: str) -> None:
    assert forbidden_name(name)
    assert forbidden_name("engine.example") is None
