"""Who may use the server: browsers' foreign pages never, other machines with the token."""

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The rules. `token`: what every request must show; None on loopback. `origins`: of a proxy before the server."""

    token: str | None = None
    origins: Collection[str] = ()

    def check(self, request: web.BaseRequest) -> None:
        """Raise 403 for another page's request: a foreign web page must not reach a microphone's socket.

        On loopback also for another host's name: a page whose name was made to lead here is a foreign one.
        """
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        name = urlsplit(f"//{host}").hostname
        if self.token is None and name not in LOOPBACK:
            raise web.HTTPForbidden(text=f"host {host!r}; without --listen it must be one of {', '.join(LOOPBACK)}")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != host:
            raise web.HTTPForbidden(text=f"origin {origin!r} is another page's; allow it with --origin, if it is yours")

    def knows(self, shown: str | None) -> bool:
        """Whether a token is the right one, compared in constant time."""
        return self.token is None or hmac.compare_digest(self.token.encode(), (shown or "").encode())

    def admits(self, request: web.BaseRequest) -> bool:
        """Whether the request's header shows the token."""
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        return self.knows(shown if scheme == "Bearer" else None)


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)
