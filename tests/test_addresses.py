"""The pure rules of fetching: which hosts are allowed, and which addresses are anybody's."""

from ipaddress import ip_network

import pytest

from batchserve.addresses import AllowedHosts, is_reachable

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1"),
    *("192.0.1.1", "192.167.255.255", "198.17.255.255", "223.255.255.255", "169.253.0.1"),
    *("2606:4700::1111", "2a00:1450:4001::64", "2001:200::1", "3ffe::1"),
    # Of what is public, in another dress.
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
]
PRIVATE = {
    "unspecified": ["0.0.0.0", "::", "0.1.2.3"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1"],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%eth0", "febf::1"],
    "site-local": ["fec0::1"],
    "of carriers": ["100.64.0.1", "100.127.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "100::1", "5f00::1"],
    "of protocols": ["192.0.0.1", "192.88.99.1", "2001::1", "2001:20::1"],
    "of benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "of documents": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:0"],
    "compatible": ["::127.0.0.1", "::10.0.0.1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8"],
    "Teredo": ["2001:0:808:808::1"],
    "metadata": ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"],
    "metadata, mapped": ["::ffff:168.63.129.16", "64:ff9b::168.63.129.16", "2002:a83f:8110::"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_reachable(address):
    assert is_reachable(address)


@pytest.mark.parametrize(
    ("kind", "address"), [(kind, one) for kind, several in PRIVATE.items() for one in several]
)
def test_another_address_is_not(kind, address):
    assert not is_reachable(address), kind


def test_a_network_that_was_allowed_is_reachable_and_no_other():
    networks = [ip_network("10.1.0.0/16"), ip_network("fd12::/16")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "8.8.8.8"):
        assert is_reachable(address, networks)
    for address in ("10.2.0.1", "127.0.0.1", "fd13::1", "::1"):
        assert not is_reachable(address, networks)


@pytest.mark.parametrize("address", [*PRIVATE["metadata"], *PRIVATE["metadata, mapped"]])
def test_no_network_makes_metadata_reachable(address):
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    assert is_reachable("127.0.0.1", everything)
    assert not is_reachable(address, everything)


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("example.org", "example.org", 443),
        ("example.org", "example.org", 80),
        ("example.org:8080", "example.org", 8080),
        ("*.example.org", "a.example.org", 443),
        ("*.example.org", "a.b-c.d_e.example.org", 80),
        ("*.example.org:8443", "a.example.org", 8443),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", 443),
        ("localhost:8000", "localhost", 8000),
        ("192.0.2.7", "192.0.2.7", 80),
        ("[::1]:8000", "::1", 8000),
        ("[0:0::1]", "::1", 443),
    ],
)
def test_a_host_that_is_allowed(entry, host, port):
    assert AllowedHosts([entry]).admits(host, port)
    assert AllowedHosts(["other.org", entry]).admits(host, port)


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("example.org", "example.com", 443),
        ("example.org", "a.example.org", 443),
        ("example.org", "example.org.evil.com", 443),
        ("example.org", "notexample.org", 443),
        ("example.org", "example.org", 8080),
        ("example.org", "example.org", 22),
        ("example.org:8080", "example.org", 443),
        ("example.org:8080", "example.org", 80),
        ("*.example.org", "example.org", 443),
        ("*.example.org", "notexample.org", 443),
        ("*.example.org", ".example.org", 443),
        ("*.example.org", "a..example.org", 443),
        ("*.example.org", "a b.example.org", 443),
        ("*.example.org", "a%2e.example.org", 443),
        ("*.example.org", "evil.com/.example.org", 443),
        ("*.example.org", "a\n.example.org", 443),
        ("*.example.org", "a.example.org", 8443),
        ("127.0.0.1", "2130706433", 80),
        ("localhost", "localhost", 8000),
    ],
)
def test_a_host_that_is_not_allowed(entry, host, port):
    assert not AllowedHosts([entry]).admits(host, port)


def test_without_entries_no_host_is_allowed():
    assert not AllowedHosts([])
    assert not AllowedHosts([]).admits("example.org", 443)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "https://example.org", "example.org/path", "a b", "example.org.", "a:0"),
        *(
            "a:99999999",
            "a:b",
            "user@example.org",
            "::1",
            "[zz]",
            "*.[::1]",
            "a.*.org",
            "bücher.de",
        ),
    ],
)
def test_what_is_no_entry(entry):
    with pytest.raises(ValueError, match=r"."):
        AllowedHosts([entry])
