"""What every request passes before it is looked at, and every answer on its way out.

- The host that a browser thinks it talks to must be one of ours: a foreign name that was pointed at this machine (DNS
  rebinding) is refused.
- What changes something must come from our own pages (`Origin`, `Sec-Fetch-Site`), beside the cookie being SameSite.
- With a password, all but the login page and its looks needs a session that has given it.
- Nothing on our pages may come from elsewhere, no script stands in them, and nobody may frame them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from side4video.app.refusal import RefusalError
from side4video.app.sessions import Session, Sessions
from side4video.app.web import (
    ASGIApp,
    Headers,
    JSONResponse,
    Message,
    MutableHeaders,
    Receive,
    RedirectResponse,
    Scope,
    Send,
)

_SAFE = frozenset({"GET", "HEAD"})
_LOGIN, _STATIC = "/login", "/static/"
_PAGES = frozenset({"/", "/logout"})  # what a browser shows; all else is asked for by scripts
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer", with which browsers send forms with the origin "null"
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), browsing-topics=()",
}


class Guard:
    """Wraps the page. `names` are the hosts that it may be called by, beside addresses in numbers if `is_public`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Collection[str],
        is_public: bool,
        needs_password: bool,
        sessions: Sessions,
        cookie: str,
    ) -> None:
        self.app = app
        self._names = frozenset(name.lower() for name in names)
        self._is_public, self._needs_password = is_public, needs_password
        self._sessions, self._cookie = sessions, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        new_cookie = ""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                out.setdefault("Cache-Control", "no-store")
                if new_cookie:
                    out.append("Set-Cookie", cookie_header(self._cookie, new_cookie))
            await send(message)

        try:
            self._check_host(headers)
            if scope["method"] not in _SAFE:
                check_origin(headers)
        except RefusalError as refusal:
            await JSONResponse({"error": str(refusal)}, refusal.status)(scope, receive, send_guarded)
            return
        path: str = scope["path"]
        is_open = path == _LOGIN or path.startswith(_STATIC)
        session = self._sessions.find(read_cookie(headers, self._cookie))
        if session is None or not session.is_trusted:
            if self._needs_password and not is_open:
                refuse = JSONResponse({"error": "log in first"}, 401)
                ask = RedirectResponse("/login", 303)
                await (ask if path in _PAGES else refuse)(scope, receive, send_guarded)
                return
            if not self._needs_password and not is_open:
                new_cookie, session = self._sessions.create(is_trusted=True)
        scope.setdefault("state", {})["session"] = session or Session(is_trusted=False)
        await self.app(scope, receive, send_guarded)

    def _check_host(self, headers: Headers) -> None:
        host = host_name(headers.get("host", ""))
        if host in self._names or (self._is_public and _is_address(host)):
            return
        raise RefusalError(
            421, "this page does not answer to that host name; open it by the address that it printed when it started"
        )


def check_origin(headers: Headers) -> None:
    """Refuse what another site's page has sent.

    Raises:
        RefusalError: the request comes from elsewhere.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() if origin is not None else True
    if not same or site not in {None, "same-origin", "none"}:
        raise RefusalError(403, "this request comes from another site's page and is refused")


def host_name(host: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("LocalHost:8080"), host_name("[::1]:80"), host_name("10.0.0.1")
    ('localhost', '::1', '10.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def read_cookie(headers: Headers, name: str) -> str | None:
    """The value of one cookie."""
    for part in headers.get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return None


def cookie_header(name: str, value: str) -> str:
    """A cookie that lives as long as the browser, that no script can read and no other site can send."""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
