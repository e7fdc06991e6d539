"""The endpoint's URL, which must not contain secrets, and the proxy on the way to it."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from pipelines.llm.masking import looks_like_key, shown
from schemas.errors import InputError

OPENAI = "https://api.openai.com/v1"
_NO_URL = re.compile(r"[\s\x00-\x1f\x7f\\]")
_REMEDY = "Put the key in the environment variable named by `api_key_env`: it is sent as `Authorization: Bearer`."


def check_base_url(url: str) -> str:
    """`url` if it is an http address without credentials; raises InputError, which never repeats the secret part."""
    try:
        parts = urlsplit(url)
        host, port, _ = parts.hostname, parts.port, parts.netloc.encode("idna")
    except (ValueError, UnicodeError):
        host = port = None
        parts = urlsplit("")
    if not host or port == 0 or parts.scheme not in ("http", "https") or _NO_URL.search(url):
        raise InputError(
            f"base_url: {_in_short(url)} is not an http address. Give one such as http://127.0.0.1:8000/v1."
        )
    place = f"base_url: the address of {host}"
    if "@" in parts.netloc:
        raise InputError(f"{place} holds a user name or password, and manifests store base_url. {_REMEDY}")
    if parts.query or parts.fragment or "?" in url or "#" in url or ";" in unquote(parts.path):
        raise InputError(
            f"{place} has parameters (after `?`, `#` or `;`): tokens do not belong there, because manifests store "
            f"base_url, and the client appends /chat/completions. End it with the path. {_REMEDY}"
        )
    if any(looks_like_key(segment) for segment in unquote(parts.path).split("/")):
        raise InputError(f"{place} has a key in its path, and manifests store base_url. {_REMEDY}")
    return url


def address_of(base_url: str | None) -> str:
    """`base_url`, or the provider's own address, which OPENAI_BASE_URL may change; raises InputError as above."""
    return check_base_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)


def proxy_of(address: str) -> str | None:
    """The proxy that HTTPS_PROXY names for an https address; None for plain http, loopback and what NO_PROXY lists.

    Plain http stays direct because such a proxy reads along: questions, answers and the key. Raises InputError for a
    proxy that cannot be used.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxy = getproxies_environment().get("https")
    if parts.scheme != "https" or not proxy or _is_loopback(host) or proxy_bypass_environment(host):
        return None
    try:
        usable = urlsplit(proxy).scheme in ("http", "https") and bool(urlsplit(proxy).hostname)
        _ = urlsplit(proxy).port
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            f"HTTPS_PROXY: {_in_short(proxy)} is not an http:// or https:// address of a proxy. Correct it, or list "
            f"{host} in NO_PROXY."
        )
    return proxy


def route_of(address: str) -> str:
    """For people: which proxy requests go through; empty where they go directly."""
    proxy, host = proxy_of(address), urlsplit(address).hostname
    return f"requests to {host} go through the proxy {shown(proxy)} (HTTPS_PROXY)" if proxy else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _in_short(url: str) -> str:
    """The address without what may be a secret: nothing in front of an `@`, nothing after a `?`."""
    words = re.split(r"[?#;]", shown(url))[0]
    words = re.sub(r"^([^/]*//)?.*@", r"\1***@", words)
    return repr(words if len(words) <= 80 else words[:77] + "...")
