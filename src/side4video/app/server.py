"""The page as an ASGI app: its own files, the login, the state, and the addresses of videos and libraries."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import parse_qs

from side4video.app.answers import add_error_answers, session_of, small_body
from side4video.app.guard import Guard, cookie_header, read_cookie
from side4video.app.library_routes import add_library_routes
from side4video.app.limits import in_bytes, in_time
from side4video.app.page import Access, Page
from side4video.app.refusal import RefusalError
from side4video.app.stages import Analysis
from side4video.app.video_routes import add_video_routes
from side4video.app.web import APIRouter, ASGIApp, FastAPI, JSONResponse, RedirectResponse, Request, Response

logger = logging.getLogger(__name__)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def create_app(analysis: Analysis, access: Access) -> ASGIApp:
    """The whole page. It owns the workspace from here on: when the server stops, the folder is removed."""
    page = Page(analysis, access)
    # the documentation that FastAPI offers loads scripts from elsewhere
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=page.lifespan)
    router = APIRouter()
    _add_routes(router, page)
    add_video_routes(router, page)
    add_library_routes(router, page)
    app.include_router(router)
    add_error_answers(app)
    return Guard(
        app,
        names=access.names,
        is_public=access.is_public,
        needs_password=access.password is not None,
        sessions=page.sessions,
        cookie=access.cookie,
    )


def _add_routes(router: APIRouter, page: Page) -> None:
    password = page.access.password

    async def home() -> Response:
        """The page itself."""
        return page.render("index.html", has_password=password is not None)

    async def static(request: Request) -> Response:
        """Our own scripts and looks, by name."""
        name: str = request.path_params["name"]
        content = page.static.get(name)
        if content is None:
            raise RefusalError(404, "there is no file of that name; only this page's own files are served")
        media_type = _TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    async def login_page(request: Request) -> Response:
        """The form that asks for the password."""
        if password is None or session_of(request).is_trusted:
            return RedirectResponse("/", 303)
        return page.render("login.html", problem="")

    async def login(request: Request) -> Response:
        """A password."""
        if password is None:
            return RedirectResponse("/", 303)
        body = await small_body(request)
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError:
            raise RefusalError(400, "this is not the login form") from None
        address = request.client.host if request.client is not None else ""
        try:
            is_right = await asyncio.to_thread(password.check, fields.get("password", [""])[0], address)
        except RefusalError as refusal:
            return page.render("login.html", refusal.status, problem=f"{str(refusal).capitalize()}.")
        if not is_right:
            logger.warning("a wrong password from %s", address)
            return page.render("login.html", 403, problem="That is not the password.")
        cookie, _ = page.sessions.create(is_trusted=True)
        answer = RedirectResponse("/", 303)
        answer.headers["Set-Cookie"] = cookie_header(page.access.cookie, cookie)
        return answer

    async def logout(request: Request) -> Response:
        """End the session, and remove what belongs to it."""
        session = page.sessions.forget(read_cookie(request.headers, page.access.cookie))
        for video in list(session.videos.values()) if session is not None else []:
            page.videos.remove(video)
        return RedirectResponse("/" if password is None else "/login", 303)

    async def state(request: Request) -> Response:
        """What the page can do, and the visitor's videos."""
        session, limits = session_of(request), page.limits
        shown = {
            "bytes": limits.max_upload_bytes,
            "bytes_text": in_bytes(limits.max_upload_bytes),
            "seconds": limits.max_seconds,
            "seconds_text": in_time(limits.max_seconds),
        }
        videos = [page.video_json(video) for video in session.videos.values() if video.state != "uploading"]
        refusal = page.videos.refusal(session.videos)
        return JSONResponse({"limits": shown, "refusal": refusal, **page.analysis.describe(), "videos": videos})

    router.add_api_route("/", home, methods=["GET", "HEAD"], response_model=None)
    router.add_api_route("/static/{name}", static, methods=["GET", "HEAD"], response_model=None)
    router.add_api_route("/login", login_page, methods=["GET"], response_model=None)
    router.add_api_route("/login", login, methods=["POST"], response_model=None)
    router.add_api_route("/logout", logout, methods=["POST"], response_model=None)
    router.add_api_route("/api/state", state, methods=["GET"], response_model=None)
