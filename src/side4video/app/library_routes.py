"""The addresses of the libraries: search, and the moments that were found, by their ids."""

from __future__ import annotations

from functools import partial
from typing import Any

from side4video.app.answers import session_of, small_json, wanted_text
from side4video.app.footage import Footage, FoundMoment
from side4video.app.page import Page
from side4video.app.refusal import RefusalError
from side4video.app.web import APIRouter, FileResponse, JSONResponse, Request, Response

_TOP, _MAX_TOP = 12, 60


def add_library_routes(router: APIRouter, page: Page) -> None:
    """Put these addresses on the page."""

    async def search(request: Request) -> Response:
        """Moments of a library for a text, or for one of the visitor's videos."""
        session, asked = session_of(request), await small_json(request)
        library = _library(page, request.path_params["number"])
        top = asked.get("top", _TOP)
        if not isinstance(top, int) or not 1 <= top <= _MAX_TOP:
            raise RefusalError(400, f"top must be a whole number from 1 to {_MAX_TOP}")
        if "video" in asked:
            video = page.own_video(session, asked["video"])
            found = await page.comparisons.run(partial(library.search_video, video.path, top))
        elif library.knows_text:
            found = await page.questions.run(partial(library.search_text, wanted_text(asked), top))
        else:
            raise RefusalError(400, "the model of this library knows no text; search it by a video")
        return JSONResponse({"moments": [_as_json(moment, session.keep_moment(moment)) for moment in found]})

    async def play(request: Request) -> Response:
        """Where the player finds a moment, and when in the file it is."""
        found = own(request)
        playing = await page.pictures.run(partial(page.analysis.clips.play, found))
        return JSONResponse(
            {
                "media": f"/api/moments/{request.path_params['moment_id']}/media",
                "start": playing.start_seconds,
                "end": playing.end_seconds,
            }
        )

    async def media(request: Request) -> Response:
        """The file with the moment."""
        playing = await page.pictures.run(partial(page.analysis.clips.play, own(request)))
        return FileResponse(playing.path, media_type=playing.media_type)

    async def picture(request: Request) -> Response:
        """The middle of the moment."""
        found = own(request)
        library = page.analysis.footage[found.library]
        content = await page.pictures.run(partial(library.picture, found))
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def own(request: Request) -> FoundMoment:
        found = session_of(request).moments.get(request.path_params["moment_id"])
        if found is None:
            raise RefusalError(404, "there is no such moment any more; search again")
        return found

    one = "/api/moments/{moment_id}"
    router.add_api_route("/api/libraries/{number}/search", search, methods=["POST"], response_model=None)
    router.add_api_route(one, play, methods=["GET"], response_model=None)
    router.add_api_route(f"{one}/media", media, methods=["GET", "HEAD"], response_model=None)
    router.add_api_route(f"{one}/picture", picture, methods=["GET"], response_model=None)


def _library(page: Page, number: str) -> Footage:
    footage = page.analysis.footage
    if not number.isascii() or not number.isdigit() or len(number) > 6 or int(number) >= len(footage):
        raise RefusalError(404, "there is no such library")
    return footage[int(number)]


def _as_json(found: FoundMoment, moment_id: str) -> dict[str, Any]:
    moment = found.moment
    return {
        "id": moment_id,
        "video": found.name,
        "start": moment.start_seconds,
        "end": moment.end_seconds,
        "score": moment.score,
    }
