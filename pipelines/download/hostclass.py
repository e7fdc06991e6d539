"""Groups host names by owner for status counts, as far as the name allows."""

from __future__ import annotations

from yarl import URL

from pipelines.download.guard import parse_address

# Second-level labels under which countries register names (bbc.co.uk, abc.net.au). A full list (publicsuffix.org)
# would be a dependency that changes; for counting failures these suffice.
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gob", "gouv", "gov", "go", "gv", "mil", "ne", "net", "or", "org"})


def host_class(url: str | None) -> str:
    """`https://i.example.co.uk/a.jpg` -> `example.co.uk`; `address` for an IP address, `none` without a host."""
    try:
        host = (URL((url or "").strip()).raw_host or "").lower().rstrip(".")
    except (ValueError, UnicodeError):
        return "none"
    if not host:
        return "none"
    if parse_address(host) is not None:
        return "address"
    labels = host.split(".")
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3:] if country else labels[-2:])
