"""Who may ask: the page itself, from this machine, or with the token.

Other sites that the same browser visits may send requests here. They cannot set the header that writing asks for
without a permission (CORS) which is never given, and a name of theirs that they let point to this machine (DNS
rebinding) is not among the hosts.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tag2mask.errors import InputError
from tag2mask.serve.answers import error

COOKIE = "tag2mask-token"
OWN_HEADER = "x-tag2mask"  # of every request of the page that changes something
TOKEN_LENGTH = 16
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """
    Raises:
        InputError: other machines could reach the page without a token, or it is easy to guess.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host {host} lets other machines reach the page: add --token {secrets.token_urlsafe(12)} (or any other "
            f"secret of at least {TOKEN_LENGTH} characters)"
        )
    if token is not None and (len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise InputError(f"--token is easy to guess or not plain text: give at least {TOKEN_LENGTH} ASCII characters")


class Guard:
    """ASGI middleware: checks who asks, and says to the browser what the page may do.

    Args:
        host: that the server listens on.
        token: that every request must bring; None: none is asked for.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app, self.token = app, token
        names = {host.lower(), "localhost", "127.0.0.1", "::1"}
        self._open = host in ("0.0.0.0", "::")
        if self._open:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        await (self.app if refused is None else refused)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            return error(421, "this server is not called so: open the address that `tag2mask serve` printed")
        is_page = scope["path"] == "/"
        if not is_page and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return error(403, "another site may not ask this server")
        if scope["method"] not in ("GET", "HEAD") and OWN_HEADER not in headers:
            return error(403, f"requests that change something need the header {OWN_HEADER}")
        if self.token is None:
            return None
        given = QueryParams(scope["query_string"]).get("token")
        if is_page and given is not None and self._is_token(given):
            return self._with_cookie()
        if self._is_token(_brought(headers)):
            return None
        return error(
            401, "the token is missing or wrong: open the address with ?token=... that the server was started with"
        )

    def _with_cookie(self) -> Response:
        """To the page without the token in its address."""
        assert self.token is not None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._names:
            return True
        if not self._open:
            return False
        try:  # a name that points here could be anybody's; an address is no name
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _brought(headers: Headers) -> str:
    """The token that a request brings along, if any."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value
