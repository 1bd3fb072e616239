"""Which hosts and network addresses the server may fetch from: pure.

A client chooses what is fetched, and must not reach through the server what it cannot reach itself.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

WEB_PORTS = (80, 443)
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
ENTRY = re.compile(
    r"(\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<any>\*\.)?(?P<name>[^:\[\]*]+))(:(?P<port>[1-9]\d{0,4}))?"
)
# Not public by the registries of IANA, and multicast. They are spelled out because what
# `ipaddress` calls global has changed from one patch of Python to another.
# https://www.iana.org/assignments/iana-ipv4-special-registry
SPECIAL = [
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # https://www.iana.org/assignments/iana-ipv6-special-registry, within global unicast
        *("2001::/23", "2001:db8::/32", "3fff::/20"),
    )
]
GLOBAL_UNICAST = IPv6Network("2000::/3")
# Where clouds tell a machine its secrets. Some of these are public by the registries, and others
# in private networks that an operator may want to allow.
METADATA = [
    ip_address(address)
    for address in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
]
# Where an IPv6 address stands for one of IPv4, and how many bits follow that: mapped and
# compatible (RFC 4291, 2.5.5), 6to4 (RFC 3056), NAT64 (RFC 6052).
EMBEDDED = [
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("2002::/16"), 80),
    (IPv6Network("64:ff9b::/96"), 0),
]


class AllowedHosts:
    """The hosts that an operator has named.

    Args:
        entries: `HOST`, or `*.DOMAIN` for all hosts below a domain; `:PORT` behind it means that
            port, and nothing those of the web.

    Raises:
        ValueError: an entry is none.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = [_split(entry) for entry in entries]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def admits(self, host: str, port: int) -> bool:
        """Whether this host may be asked at this port.

        Args:
            host: in lower case and ASCII, without a dot at the end or brackets.
            port: that of the address, or its scheme's.
        """
        return any(_is_named(host, name) and port in ports for name, ports in self._entries)


def _split(entry: str) -> tuple[str, Sequence[int]]:
    """Return what a host must be, with a dot in front if it may be any below, and the ports."""
    found = ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(f"{entry!r} is no host")
    ports = (int(found["port"]),) if found["port"] else WEB_PORTS
    if found["ipv6"]:
        return str(IPv6Address(found["ipv6"])), ports
    if not HOST.fullmatch(found["name"]):
        raise ValueError(f"{entry!r} is no host")
    return f"{'.' if found['any'] else ''}{found['name']}", ports


def _is_named(host: str, name: str) -> bool:
    if name.startswith("."):
        return host.endswith(name) and HOST.fullmatch(host) is not None
    return host == name


def is_reachable(address: str, networks: Sequence[Network] = ()) -> bool:
    """Whether the server may connect to a network address.

    Args:
        address: of IPv4 or IPv6.
        networks: allowed beside what is public.
    """
    ip = ip_address(address.partition("%")[0])
    carried = _carried(ip)
    if ip in METADATA or carried in METADATA:
        return False
    return is_public(carried) or any(carried in network for network in networks)


def is_public(ip: Address) -> bool:
    """Whether an address is one of the internet's, to which anybody may send."""
    if any(ip in network for network in SPECIAL):
        return False
    return ip.version == 4 or ip in GLOBAL_UNICAST  # noqa: PLR2004 - the name of a protocol


def _carried(ip: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    for network, bits in EMBEDDED:
        if ip in network:
            return IPv4Address(int(ip) >> bits & 0xFFFF_FFFF)
    return ip
