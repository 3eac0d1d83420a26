"""The addresses of the visitor's own videos: upload, results, player, pictures, search within, removal."""

from __future__ import annotations

from functools import partial
from urllib.parse import unquote

from side4video.app.answers import drain, session_of, small_json, wanted_text
from side4video.app.intake import check_length, look_at, receive
from side4video.app.page import Page
from side4video.app.refusal import RefusalError
from side4video.app.videos import Video
from side4video.app.web import APIRouter, FileResponse, JSONResponse, Request, Response

_TOP = 8
_MAX_UPLOAD_NAME = 64


def add_video_routes(router: APIRouter, page: Page) -> None:
    """Put these addresses on the page."""

    async def upload(request: Request) -> Response:
        """A video as the body of a request; its name, percent-encoded, in `X-File-Name`.

        With `X-Upload`, a name of the browser's choice, the upload can be cancelled by it at any time.
        """
        session = session_of(request)
        video: Video | None = None
        chunks = aiter(request.stream())
        try:
            length = check_length(request.headers.get("content-length"), page.limits)
            video = page.videos.admit(unquote(request.headers.get("x-file-name", "")), session.videos)
            video.upload = request.headers.get("x-upload", "")[:_MAX_UPLOAD_NAME]
            await receive(chunks, video.path, length, page.workspace, page.limits)
            video.info, media_type = await page.intake.run(partial(look_at, video.path, page.limits))
        except BaseException as error:
            if video is not None:
                page.videos.remove(video, session.videos)
            if isinstance(error, RefusalError):
                await drain(chunks)
            raise
        if media_type is not None:
            page.analysis.play_original(video, media_type)
        page.worker.submit(video)
        return JSONResponse(page.video_json(video), 201)

    async def cancel(request: Request) -> Response:
        """Cancel an upload: the server may have all of it, and the browser still no answer."""
        session, name = session_of(request), request.path_params["name"]
        for video in [video for video in session.videos.values() if video.upload == name]:
            page.videos.remove(video, session.videos)
        return Response(status_code=204)

    async def show(request: Request) -> Response:
        """How far a video is, and what has been found."""
        return JSONResponse(page.video_json(own(request)))

    async def remove(request: Request) -> Response:
        """Remove a video, whatever is being done with it."""
        page.videos.remove(own(request), session_of(request).videos)
        return Response(status_code=204)

    async def media(request: Request) -> Response:
        """The video, for the player."""
        playable = page.analysis.playable(own(request))
        if playable is None:
            raise RefusalError(404, "this video cannot be played yet")
        return FileResponse(playable[0], media_type=playable[1])

    async def picture(request: Request) -> Response:
        """A picture that the results name."""
        found = own(request).pictures.get(request.path_params["name"])
        if found is None:
            raise RefusalError(404, "there is no such picture any more")
        return Response(found, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def timeline(request: Request) -> Response:
        """A new timeline, of windows of another length."""
        video = own(request)
        page.analysis.wish_window(video, (await small_json(request)).get("window_seconds"))
        page.worker.again(video, "timeline")
        return JSONResponse(page.video_json(video), 202)

    async def explain(request: Request) -> Response:
        """What spoke for another class."""
        video, asked = own(request), await small_json(request)
        page.analysis.wish_label(video, asked.get("run"), asked.get("label"))
        page.worker.again(video, "explain")
        return JSONResponse(page.video_json(video), 202)

    async def search(request: Request) -> Response:
        """Moments within the video."""
        video, text = own(request), wanted_text(await small_json(request))
        moments = await page.questions.run(partial(page.analysis.find_in_video, video, text, _TOP))
        found = [
            {"start": moment.start_seconds, "end": moment.end_seconds, "score": moment.score} for moment in moments
        ]
        return JSONResponse({"moments": found})

    def own(request: Request) -> Video:
        return page.own_video(session_of(request), request.path_params["video_id"])

    one = "/api/videos/{video_id}"
    router.add_api_route("/api/videos", upload, methods=["POST"], response_model=None)
    router.add_api_route("/api/uploads/{name}", cancel, methods=["DELETE"], response_model=None)
    router.add_api_route(one, show, methods=["GET"], response_model=None)
    router.add_api_route(one, remove, methods=["DELETE"], response_model=None)
    router.add_api_route(f"{one}/media", media, methods=["GET", "HEAD"], response_model=None)
    router.add_api_route(f"{one}/pictures/{{name}}", picture, methods=["GET"], response_model=None)
    router.add_api_route(f"{one}/timeline", timeline, methods=["POST"], response_model=None)
    router.add_api_route(f"{one}/explain", explain, methods=["POST"], response_model=None)
    router.add_api_route(f"{one}/search", search, methods=["POST"], response_model=None)
