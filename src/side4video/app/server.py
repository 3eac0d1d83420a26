"""The page's addresses, each a few lines: what is asked for, of whom, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, cast
from urllib.parse import parse_qs, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined

from side4video.app.guard import Guard, cookie_header, read_cookie
from side4video.app.intake import check_length, look_at, receive
from side4video.app.limits import Limits, in_bytes, in_time
from side4video.app.passwords import Password
from side4video.app.refusal import RefusalError
from side4video.app.sessions import Session, Sessions
from side4video.app.stages import Analysis
from side4video.app.videos import Video, Videos
from side4video.app.web import (
    APIRouter,
    ASGIApp,
    ClientDisconnect,
    FastAPI,
    FileResponse,
    HTMLResponse,
    HTTPException,
    JSONResponse,
    RedirectResponse,
    Request,
    Response,
)
from side4video.app.worker import Worker
from side4video.app.workspace import Workspace

logger = logging.getLogger(__name__)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SWEEP_SECONDS = 20.0
_MAX_FORM_BYTES = 4096
# of an upload that is refused, as much is read and thrown away, so that the browser hears why
_DRAINED_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Access:
    """Who may reach the page: the host names that it answers to, and its password."""

    names: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    is_public: bool = False
    password: Password | None = None
    cookie: str = "side4video"


def create_app(analysis: Analysis, workspace: Workspace, limits: Limits, access: Access) -> ASGIApp:
    """The whole page. It owns `workspace` from here on: when the server stops, the folder is removed."""
    page = Page(analysis, workspace, limits, access)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=page.lifespan)
    app.include_router(page.routes())
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _broken)
    return Guard(
        app,
        names=access.names,
        is_public=access.is_public,
        needs_password=access.password is not None,
        sessions=page.sessions,
        cookie=access.cookie,
    )


class Page:
    """What the addresses have in common."""

    def __init__(self, analysis: Analysis, workspace: Workspace, limits: Limits, access: Access) -> None:
        self.analysis, self.workspace, self.limits, self.access = analysis, workspace, limits, access
        self.sessions = Sessions()
        self.videos = Videos(workspace, limits)
        self.worker = Worker(analysis.stages(workspace), self.videos)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="side4video-app-reader")
        self._pages = Environment(
            loader=PackageLoader("side4video.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        folder = files("side4video.app") / "static"
        self._static = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncGenerator[None]:
        """From start to stop of the server."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Stop working and remove everything."""
        self.worker.stop()
        self._readers.shutdown(cancel_futures=True)
        self.analysis.close()
        self.workspace.close()

    def routes(self) -> APIRouter:
        """All addresses."""
        router = APIRouter()
        for path, method, endpoint in (
            ("/", "GET", self.home),
            ("/login", "GET", self.login_page),
            ("/login", "POST", self.login),
            ("/logout", "POST", self.logout),
            ("/static/{name}", "GET", self.static),
            ("/api/state", "GET", self.state),
            ("/api/videos", "POST", self.upload),
            ("/api/videos/{video_id}", "GET", self.video),
            ("/api/videos/{video_id}", "DELETE", self.remove),
            ("/api/videos/{video_id}/media", "GET", self.media),
        ):
            methods = ["GET", "HEAD"] if method == "GET" else [method]
            router.add_api_route(path, endpoint, methods=methods, response_model=None)
        return router

    async def home(self) -> Response:
        """The page itself."""
        return self._render("index.html", has_password=self.access.password is not None)

    async def login_page(self, request: Request) -> Response:
        """The form that asks for the password."""
        if self.access.password is None or _session(request).is_trusted:
            return RedirectResponse("/", 303)
        return self._render("login.html", problem="")

    async def login(self, request: Request) -> Response:
        """A password."""
        if self.access.password is None:
            return RedirectResponse("/", 303)
        fields = parse_qs((await _small_body(request)).decode("utf-8", "replace"), max_num_fields=8)
        address = request.client.host if request.client is not None else ""
        try:
            given = fields.get("password", [""])[0]
            is_right = await asyncio.to_thread(self.access.password.check, given, address)
        except RefusalError as refusal:
            return self._render("login.html", 429, problem=str(refusal))
        if not is_right:
            logger.warning("a wrong password from %s", address)
            return self._render("login.html", 403, problem="That is not the password.")
        cookie, _ = self.sessions.create(is_trusted=True)
        answer = RedirectResponse("/", 303)
        answer.headers["Set-Cookie"] = cookie_header(self.access.cookie, cookie)
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session, and remove what belongs to it."""
        session = self.sessions.forget(read_cookie(request.headers, self.access.cookie))
        for video in list(session.videos.values()) if session is not None else []:
            self.videos.remove(video)
        return RedirectResponse("/login" if self.access.password is not None else "/", 303)

    async def static(self, name: str) -> Response:
        """Our own scripts and looks, by name."""
        content = self._static.get(name)
        if content is None:
            raise RefusalError(404, "there is nothing of that name")
        suffix = name[name.rfind(".") :]
        return Response(
            content, media_type=_TYPES.get(suffix, "application/octet-stream"), headers={"Cache-Control": "no-cache"}
        )

    async def state(self, request: Request) -> Response:
        """What the page can do, and the visitor's videos."""
        limits = self.limits
        return JSONResponse(
            {
                "limits": {
                    "bytes": limits.max_upload_bytes,
                    "bytes_text": in_bytes(limits.max_upload_bytes),
                    "seconds": limits.max_seconds,
                    "seconds_text": in_time(limits.max_seconds),
                },
                "refusal": self.videos.refusal(_session(request).videos),
                **self.analysis.describe(),
                "videos": [self._as_json(video) for video in _session(request).videos.values()],
            }
        )

    async def upload(self, request: Request) -> Response:
        """A video as the body of a request; its name, percent-encoded, in `X-File-Name`."""
        session = _session(request)
        video: Video | None = None
        try:
            length = check_length(request.headers.get("content-length"), self.limits)
            video = self.videos.admit(unquote(request.headers.get("x-file-name", "")), session.videos)
            await receive(aiter(request.stream()), video.path, length, self.workspace, self.limits)
            video.info, media_type = await self._in_thread(partial(look_at, video.path, self.limits))
            if media_type is not None:
                self.analysis.play_original(video, media_type)
        except BaseException as error:
            if video is not None:
                self.videos.remove(video, session.videos)
            if isinstance(error, RefusalError):
                await _drain(request)
            if isinstance(error, ClientDisconnect):
                return Response(status_code=499)
            raise
        self.worker.submit(video)
        return JSONResponse(self._as_json(video), 201)

    async def video(self, request: Request, video_id: str) -> Response:
        """How far a video is, and what has been found."""
        return JSONResponse(self._as_json(self._own(request, video_id)))

    async def remove(self, request: Request, video_id: str) -> Response:
        """Remove a video, whatever is being done with it."""
        self.videos.remove(self._own(request, video_id), _session(request).videos)
        return Response(status_code=204)

    async def media(self, request: Request, video_id: str) -> Response:
        """The video, for the player."""
        video = self._own(request, video_id)
        playable = self.analysis.playable(video)
        if playable is None:
            raise RefusalError(404, "this video cannot be played yet")
        return FileResponse(playable[0], media_type=playable[1])

    def _as_json(self, video: Video) -> dict[str, Any]:
        return {
            "id": video.id,
            "name": video.name,
            "state": video.state,
            "is_pending": video.is_pending,
            "position": self.worker.position(video) if video.state == "waiting" else 0,
            "stage": video.stage,
            "progress": round(video.progress, 3),
            "error": video.error,
            "problems": dict(video.problems),
            "info": video.info,
            "results": dict(video.results),
        }

    def _own(self, request: Request, video_id: str) -> Video:
        """One of the visitor's own videos."""
        video = _session(request).videos.get(video_id)
        if video is None:
            raise RefusalError(
                404, "there is no such video of yours; videos are removed some time after their last use"
            )
        video.touch()
        return video

    def _render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._pages.get_template(template).render(**values), status)

    async def _in_thread(self, work: partial[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _sweep(self) -> None:
        def forget(video: Video) -> None:
            for session in self.sessions:
                session.videos.pop(video.id, None)

        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.videos.sweep(forget)


def _session(request: Request) -> Session:
    return cast("Session", request.state.session)


async def _small_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise RefusalError(413, "this request is too large")
    return body


async def small_json(request: Request) -> dict[str, Any]:
    """The JSON object in a small body.

    Raises:
        RefusalError: it is none, or not small.
    """
    try:
        value = json.loads(await _small_body(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RefusalError(400, "this request is not a JSON object")
    return cast("dict[str, Any]", value)


async def _drain(request: Request) -> None:
    """Read a little of what still comes, so that the answer is not lost in a broken connection."""
    thrown = 0
    with contextlib.suppress(ClientDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(5):
            while thrown < _DRAINED_BYTES:
                message = await request.receive()
                thrown += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    headers = {} if error.retry_seconds is None else {"Retry-After": str(round(error.retry_seconds))}
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


async def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is nothing at this address; only this page's own videos and files are served, by their ids",
        405: "this cannot be done at this address",
    }
    return JSONResponse({"error": messages.get(error.status_code, str(error.detail))}, error.status_code)


async def _broken(_request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse({"error": "something went wrong in the server; its log says what"}, 500)
