"""Who may ask: the token, signed links, and the pages of other sites that a browser has open."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from ui.address import is_loopback
from ui.api.errors import ApiError
from ui.api.settings import Settings

OPEN = ("/healthz",)
"""Paths that need no token."""
LINK_SECONDS = 3600
_SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """The rules of one server; its key for links lasts as long as the process."""

    def __init__(self, settings: Settings) -> None:
        self._token = None if settings.token is None else _hash(settings.token)
        self._key = secrets.token_bytes(32)
        self._host = settings.host

    def check(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
        """Raises ApiError: 403 for another site's page or an unknown host's name, 401 without the token."""
        self._check_site(method, headers)
        if self._token is None or path in OPEN or self._is_signed(method, path, query):
            return
        given = _given(headers.get("authorization", ""))
        # hashes have one length, and their comparison takes one time
        if given is None or not hmac.compare_digest(_hash(given), self._token):
            api = path.startswith(("/v1/", "/metrics", "/openapi.json"))
            challenge = "Bearer" if api else 'Basic realm="zellige", charset="UTF-8"'
            told = "Expected the server's token as 'Authorization: Bearer TOKEN', but got " + (
                "none" if given is None else "another"
            )
            raise ApiError(401, told, code="invalid_api_key", headers={"WWW-Authenticate": challenge})

    def sign(self, path: str) -> str:
        """The path with a signature, by which it can be read without the token for an hour."""
        expires = str(int(time.time()) + LINK_SECONDS)
        return f"{path}?expires={expires}&signature={self._signature(path, expires)}"

    def _is_signed(self, method: str, path: str, query: str) -> bool:
        if method not in ("GET", "HEAD") or "signature=" not in query:
            return False
        try:
            values = parse_qs(query, max_num_fields=4)
            (expires,), (signature,) = values["expires"], values["signature"]
            fresh = expires.isascii() and expires.isdecimal() and len(expires) < 16 and int(expires) >= time.time()
        except (ValueError, KeyError):
            return False
        return fresh and hmac.compare_digest(signature.encode(), self._signature(path, expires).encode())

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{expires}\n{path}".encode(), hashlib.sha256).hexdigest()

    def _check_site(self, method: str, headers: Mapping[str, str]) -> None:
        """A page of another site can make a browser send requests here, with its log-in (CSRF) or by a name that it
        lets point here (DNS rebinding)."""
        host = headers.get("host", "")
        if self._token is None and (name := _name(host)) != self._host.lower() and not is_loopback(name):
            raise ApiError(403, f"Expected a Host header that names this machine, but got {ascii(host)[:80]}")
        if method in _SAFE:
            return
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit_netloc(origin) != host.lower()
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ApiError(403, f"Expected a request of this server's own pages, but got one of {ascii(origin)[:80]}")


def urlsplit_netloc(origin: str) -> str:
    """The host and port of an origin; "" for what is none.

    >>> urlsplit_netloc("http://Localhost:8000"), urlsplit_netloc("null"), urlsplit_netloc("http://[")
    ('localhost:8000', '', '')
    """
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _given(header: str) -> str | None:
    """The token of an Authorization header; a browser's log-in sends it as the password."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
