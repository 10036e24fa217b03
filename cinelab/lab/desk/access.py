"""Who may enter the demo: the host names it is reached by, its tokens, and the headers of every
answer.

A page of a foreign site must not reach a server on this machine or network (DNS rebinding): a
request is answered only if its Host is one of our names and its Origin, where a browser sends
one, is our own page's.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from cinelab.errors import CinelabError
from cinelab.limits import short

TOKEN = re.compile(r"[A-Za-z0-9_-]{8,128}")
# in small letters, with a port or without
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(:[0-9]{1,5})?")
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
OURSELVES = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE = ("", "0.0.0.0", "::")
DIRECTOR = "direct"
WATCHER = "watch"

# Headers of every answer. The policy of what a page may load comes with the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "cinelab",
}


@dataclass(frozen=True)
class AllowedHosts:
    """The names by which the demo is reached when it listens on `host`; `more` are those of a proxy
    in front of it."""

    host: str = "127.0.0.1"
    more: tuple[str, ...] = ()
    names: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self):
        object.__setattr__(self, "more", tuple(map(checked_name, self.more)))
        object.__setattr__(self, "names", frozenset(self._all_names()))

    def _all_names(self) -> Iterable[str]:
        yield from OURSELVES
        yield from self.more
        yield from map(bracketed, own_names() if self.host in EVERYWHERE else [self.host.lower()])

    def refusal(self, host: str | None, origin: str | None) -> str:
        """Return in one sentence why a request with these headers is refused, "" where it is not.
        `origin` None = none was sent."""
        name = host_name(host)
        if name is None or name not in self.names:
            return (
                f"Host {short(host or '')} is not this demo's; start it with --allow-host NAME if "
                "it is."
            )
        if origin is not None and not self._is_ours(host or "", origin):
            return f"Origin {short(origin)} is not this demo's page; open the demo's own address."
        return ""

    def _is_ours(self, host: str, origin: str) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        # a proxy may have given another Host
        ours = parts.netloc == host.lower() or host_name(parts.netloc) in self.more
        return parts.scheme in ("http", "https") and ours

    def addresses(self, port: int) -> list[str]:
        """Return addresses that can be opened, such as http://127.0.0.1:8890."""
        if self.host not in EVERYWHERE:
            return [f"http://{bracketed(self.host)}:{port}"]
        return [
            f"http://{bracketed(name)}:{port}"
            for name in ("localhost", *own_names())
            if self._is_reached_by(name)
        ]

    def _is_reached_by(self, name: str) -> bool:
        """Whether a server that listens everywhere is reached by this name: by IPv4 at 0.0.0.0, by
        IPv6 at ::."""
        v6 = ":" in name
        v4 = re.fullmatch(r"[0-9.]+", name) is not None
        if self.host == "0.0.0.0":
            return not v6
        return not (v4 and self.host == "::")


def own_names() -> list[str]:
    """Return this machine's name and the addresses by which others reach it."""
    found = [socket.gethostname().lower()] if NAME.fullmatch(socket.gethostname().lower()) else []
    for network in psutil.net_if_addrs().values():
        for one in network:
            if one.family in (socket.AF_INET, socket.AF_INET6) and "%" not in one.address:
                place = ipaddress.ip_address(one.address)
                if not place.is_loopback and not place.is_link_local:
                    found.append(str(place))
    return list(dict.fromkeys(found))


def bracketed(name: str) -> str:
    """Return a host as it stands in an address: IPv6 in brackets, as short as a browser writes
    it."""
    with suppress(ValueError):
        name = ipaddress.IPv6Address(name.strip("[]")).compressed
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def host_name(host: str | None) -> str | None:
    """Return the name in a Host header without its port; None where it is no such header."""
    found = HOST.fullmatch((host or "").lower())
    return bracketed(found[1].rstrip(".")) if found else None


def checked_name(name: str) -> str:
    """Return a name of --allow-host in small letters. Raises CinelabError."""
    plain = name.strip().lower()
    if not (NAME.fullmatch(plain) or re.fullmatch(r"\[[0-9a-f:.]{2,45}\]", plain)):
        raise CinelabError(
            f"--allow-host is {short(name)}; give a host's name such as demo.example.org, without "
            "http:// and port."
        )
    return bracketed(plain)


# ---- tokens


def checked_token(text: str | None) -> str:
    """Return the token that lets one direct: the given one, or a new one. Raises CinelabError,
    which never quotes it."""
    if text is None:
        return secrets.token_urlsafe(12)
    if not TOKEN.fullmatch(text):
        raise CinelabError(
            f"The token has {len(text)} characters; give 8 to 128 of A-Z, a-z, 0-9, - and _, such "
            "as that of `openssl rand -hex 16`."
        )
    return text


@dataclass(frozen=True)
class Tokens:
    """The token that lets one direct, and for each film one that lets one watch it and from which
    the other cannot be computed."""

    token: str = field(default_factory=lambda: checked_token(None), repr=False)

    def watch(self, film: str) -> str:
        """Return the token with which a film can be watched; it survives a restart under the same
        token."""
        digest = hmac.new(self.token.encode(), f"watch {film}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:15]).decode()

    def role(self, film: str, given: bytes) -> str | None:
        """Return DIRECTOR, WATCHER, or None; the time taken depends on nothing that is given."""
        directs = hmac.compare_digest(_hashed(given), _hashed(self.token.encode()))
        watches = hmac.compare_digest(_hashed(given), _hashed(self.watch(film).encode()))
        return DIRECTOR if directs else WATCHER if watches else None


def _hashed(given: bytes) -> bytes:
    """Return a digest: all are of one length, so the time of a comparison reveals nothing."""
    return hashlib.sha256(given).digest()


def page_policy(page: str, host: str) -> str:
    """Return what our page may load: its own files, the frames that come by its websocket, and no
    script or style of others."""
    styles = " ".join(
        f"'sha256-{_digest(style)}'" for style in re.findall(r"<style>(.*?)</style>", page, re.S)
    )
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' {styles}; "
        "img-src 'self' blob: data:; media-src 'self' blob:; "
        f"connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def chosen_token(option: str | None) -> str:
    """Return the token of --token, else of $CINELAB_TOKEN, else a new one. Raises CinelabError."""
    return checked_token(option if option is not None else os.environ.get("CINELAB_TOKEN") or None)
