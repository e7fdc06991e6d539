"""The guard: which URLs and addresses a download may contact. Pure; `connect.py` applies it to every connection."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

from yarl import URL

from pipelines.download.statuses import DownloadStatus, Failure
from schemas.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA IPv4 Special-Purpose Address Registry (RFC 6890 and updates), everything that is not globally reachable.
# Listed here because the answer of `ipaddress.is_global` differs between Python releases and includes multicast.
_NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared address space; holds a cloud metadata service (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # publicly numbered, but a cloud's own virtual service inside its machines
        "169.254.0.0/16",  # link local; holds the metadata services (169.254.169.254)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # former 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
# RFC 4291 section 2.4: global unicast is 2000::/3. Inside it, the IANA IPv6 special-purpose registry.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]
# Prefixes that carry an IPv4 address: RFC 4291 2.5.5.2 (mapped), RFC 6052 (NAT64), RFC 3056 (6to4).
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")

# RFC 1123 section 2.1 and RFC 1035 section 2.3.4; underscores are used by real hosts. After IDNA, so ASCII only.
_HOST_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
# No top-level domain is a number. Such a host (2130706433, 0x7f.1, 127.1) is an address in disguise: URL Standard,
# section 3.5, "ends in a number".
_NUMBER_LAST = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.?$")

# RFC 3986 sections 2.2, 2.3, 3.3, 3.4: what a path and a query may hold as it is.
_AS_SPELLED = "/?:@!$&'()*+,;=-._~%"

MAX_URL_LENGTH = 16_384
"""Characters. Servers answer 414 far below; longer ones are data, not addresses."""


class Guard:
    """Answers for URLs (`check_url`), for what a name resolved to (`vet`), and for a socket (`may_connect`)."""

    def __init__(self, allow_private_hosts: Iterable[str] = ()):
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[Network, int | None]] = []
        self._vetted: set[Address] = set()
        for entry in allow_private_hosts:
            self._allow(entry)

    def check_url(self, text: str) -> URL:
        """The URL to fetch: http or https, credentials and fragment removed, a literal address checked.

        What is allowed in a URL is sent as written (`%2F` and `/` differ to a server that signs its addresses);
        spaces, non-ASCII and the like are percent-encoded. Raises Failure (bad_url, bad_scheme, private_address).
        """
        url = _parse(text)
        if url.scheme not in ("http", "https"):
            raise Failure(DownloadStatus.bad_scheme, f"scheme {url.scheme[:20]!r} is not http or https")
        host, port = url.raw_host, url.port
        if not host or not port:
            raise Failure(DownloadStatus.bad_url, "no host")
        literal = parse_address(host)
        if literal is None and (not _HOST_NAME.fullmatch(host) or _NUMBER_LAST.search(host)):
            raise Failure(DownloadStatus.bad_url, "the host is neither a name nor a plainly written address")
        if literal is not None and not self._allowed(literal, host, port):
            raise Failure(DownloadStatus.private_address, "the host is a private or special address")
        return _spelled(url, text)

    def vet(self, host: str, port: int, addresses: Iterable[str]) -> list[str]:
        """Those of a host's addresses that may be connected to; raises Failure(private_address) when none may."""
        allowed = [text for text in addresses if self._allowed(_address(text), host, port)]
        if not allowed:
            raise Failure(DownloadStatus.private_address, "the host resolves to a private or special address")
        return allowed

    def may_connect(self, address: str) -> bool:
        """The last word, on the address of a socket about to connect: public, or vetted for an allowed host."""
        parsed = _address(address)
        return is_public(parsed) or parsed in self._vetted

    def _allowed(self, address: Address, host: str, port: int) -> bool:
        if is_public(address):
            return True
        name = host.lower().rstrip(".")
        named = any((name, wanted) in self._names for wanted in (None, port))
        literal = parse_address(host)
        # Networks are compared with the URL's own host only: another name that resolves to one stays refused.
        listed = literal is not None and any(
            literal.version == network.version and literal in network and wanted in (None, port)
            for network, wanted in self._networks
        )
        if named or listed:
            self._vetted.add(address)
        return named or listed

    def _allow(self, entry: str) -> None:
        text, port = entry.strip().lower(), None
        found = re.fullmatch(r"(\[[^\]]+\]|[^:]+):(\d+)", text)
        if found:
            text, port = found.group(1), int(found.group(2))
        text = text.strip("[]").rstrip(".")
        try:
            self._networks.append((ipaddress.ip_network(text, strict=False), port))
        except ValueError:
            if not re.fullmatch(r"[\w.-]+", text):
                raise InputError(
                    f"allow_private_hosts: {entry!r} is not a host name, address or network. "
                    "Write, for example, localhost, 127.0.0.1:8000 or 10.0.0.0/8."
                ) from None
            self._names.add((text, port))


@lru_cache(maxsize=65_536)
def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also when it carries an IPv4 address inside."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    inner = _inner_v4(address)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def parse_address(host: str) -> Address | None:
    """The address that a URL's host spells in its plain form, or None for a name."""
    try:
        return _address(host)
    except ValueError:
        return None


@lru_cache(maxsize=65_536)
def _address(text: str) -> Address:
    text = text.strip("[]")
    # Only an IPv6 address has a zone after a percent sign; 1.1.1.1%2f is no address, whatever it looks like.
    return ipaddress.ip_address(text.split("%", 1)[0] if ":" in text else text)


def _inner_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _MAPPED or address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    return None


def _parse(text: str) -> URL:
    text = text.strip()
    if len(text) > MAX_URL_LENGTH:
        raise Failure(DownloadStatus.bad_url, f"longer than {MAX_URL_LENGTH} characters")
    if any(ord(character) < 32 for character in text):
        raise Failure(DownloadStatus.bad_url, "a control character in the URL")
    try:
        url = URL(text)
        _ = url.port, url.host  # yarl finds some faults only when asked
        _ = text.encode(errors="surrogateescape")
    except (ValueError, TypeError, UnicodeError):
        raise Failure(DownloadStatus.bad_url, "cannot be parsed as a URL") from None
    if not url.scheme:
        raise Failure(DownloadStatus.bad_url, "no scheme; write http:// or https:// in front")
    return url


def _spelled(url: URL, text: str) -> URL:
    """The scheme, host and port of `url`, which is `text` parsed, with the path and query of `text`."""
    given = URL(text.strip(), encoded=True)
    path, query = given.raw_path, given.raw_query_string
    if "/." in path.lower().replace("%2e", "."):
        # Dot segments are resolved before a server, or a robots.txt, sees them (RFC 3986 section 5.2.4).
        return url.with_user(None).with_fragment(None)
    # Bytes of a redirect that are no UTF-8 arrive as surrogates, and leave as the bytes that they were.
    whole = f"{path}?{query}" if query else path
    return URL(str(url.origin()) + quote(whole, safe=_AS_SPELLED, errors="surrogateescape"), encoded=True)
