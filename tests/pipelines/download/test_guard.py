"""The guard: URLs, addresses, allow lists."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.download.guard import Guard, is_public
from pipelines.download.statuses import Failure
from schemas.errors import InputError


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "168.63.129.16", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "2001::1", "100::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::1",
        "2002:7f00:1::1", "2002:a9fe:a9fe::", "::127.0.0.1",
    ],
)  # fmt: skip
def test_private_and_special_addresses_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "::ffff:8.8.8.8",
     "64:ff9b::808:808", "2002:808:808::1"],
)  # fmt: skip
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_hidden_in_ipv6_gets_the_same_answer(address):
    number = int(address)
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    translated = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert is_public(mapped) == is_public(translated) == is_public(address)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address):
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        assert not is_public(address)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:secret@example.com/a.jpg#top", "http://example.com/a.jpg"),
        ("  https://example.com/ä b.jpg?q=é ", "https://example.com/%C3%A4%20b.jpg?q=%C3%A9"),
        ("https://münchen.example/x", "https://xn--mnchen-3ya.example/x"),
        ("HTTPS://EXAMPLE.com/%7Ea%2Fb", "https://example.com/%7Ea%2Fb"),
        ("https://example.com/a%2fb%zz?to=%2F&t=a+b&u=~'()", "https://example.com/a%2fb%zz?to=%2F&t=a+b&u=~'()"),
        ("https://example.com//a//b?", "https://example.com//a//b"),
        ("https://example.com/a|b[c]?d={e}", "https://example.com/a%7Cb%5Bc%5D?d=%7Be%7D"),
        ("https://example.com/a/%2E%2e/secret/./b", "https://example.com/secret/b"),
        ("https://example.com?q=1#f", "https://example.com/?q=1"),
        ("http://example.com/bild-\udcfc.jpg", "http://example.com/bild-%FC.jpg"),
        ("http://[2606:4700::1111]:81/a%2F", "http://[2606:4700::1111]:81/a%2F"),
        ("http://1.1.1.1:8080/", "http://1.1.1.1:8080/"),
    ],
)
def test_urls_are_cleaned(text, clean):
    assert str(Guard().check_url(text)) == clean


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("file:///etc/passwd", "bad_scheme"),
        ("FTP://example.com/a.jpg", "bad_scheme"),
        ("data:image/png;base64,AAAA", "bad_scheme"),
        ("javascript:alert(1)", "bad_scheme"),
        ("example.com/a.jpg", "bad_url"),
        ("//example.com/a.jpg", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("http://exa mple.com/", "bad_url"),
        ("http://a..b/", "bad_url"),
        ("http://2130706433/", "bad_url"),
        ("http://0x7f.1/", "bad_url"),
        ("http://127.1/", "bad_url"),
        ("http://127.0.0.1./", "bad_url"),
        ("http://1.1.1.1%2f/", "bad_url"),
        ("http://example.com/\ud800", "bad_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http://[::1", "bad_url"),
        ("http://xn--/", "bad_url"),
        ("http://a\nb.com/", "bad_url"),
        ("http://example.com/" + "a" * 20_000, "bad_url"),
        ("http://127.0.0.1/", "private_address"),
        ("http://[::1]:80/", "private_address"),
        ("http://[::ffff:127.0.0.1]/", "private_address"),
        ("http://[fe80::1%25eth0]/", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
    ],
)
def test_urls_are_refused(text, status):
    with pytest.raises(Failure) as caught:
        Guard().check_url(text)
    assert caught.value.status == status


def test_a_name_keeps_only_its_public_addresses():
    assert Guard().vet("example.com", 80, ["127.0.0.1", "1.1.1.1", "::1"]) == ["1.1.1.1"]


def test_a_name_with_private_addresses_alone_is_refused():
    with pytest.raises(Failure, match="resolves to a private"):
        Guard().vet("rebind.example", 80, ["127.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"])


def test_an_allowed_name_may_be_private_and_then_be_connected_to():
    guard = Guard(["Intranet.example"])
    assert not guard.may_connect("10.0.0.7")
    assert guard.vet("intranet.example", 80, ["10.0.0.7"]) == ["10.0.0.7"]
    assert guard.may_connect("10.0.0.7")
    assert not guard.may_connect("10.0.0.8")


def test_an_allowed_network_does_not_admit_foreign_names_that_resolve_into_it():
    guard = Guard(["10.0.0.0/8", "127.0.0.1"])
    assert str(guard.check_url("http://10.1.2.3/a")) == "http://10.1.2.3/a"
    with pytest.raises(Failure):
        guard.vet("rebind.example", 80, ["10.1.2.3"])


def test_an_allowed_port_admits_no_other():
    guard = Guard(["127.0.0.1:8000", "[::1]:8000", "localhost:8000"])
    guard.check_url("http://127.0.0.1:8000/a")
    guard.check_url("http://[::1]:8000/a")
    guard.vet("localhost", 8000, ["127.0.0.1"])
    for url in ("http://127.0.0.1/a", "http://127.0.0.1:8001/a"):
        with pytest.raises(Failure):
            guard.check_url(url)
    with pytest.raises(Failure):
        Guard(["localhost:8000"]).vet("localhost", 22, ["127.0.0.1"])


def test_a_broken_allow_list_says_what_is_wrong():
    with pytest.raises(InputError, match="is not a host name, address or network"):
        Guard(["http://intranet/"])
