"""Reading small requests, and answering what is refused or went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

from side4video.app.refusal import RefusalError
from side4video.app.sessions import Session
from side4video.app.web import ClientDisconnect, FastAPI, HTTPException, JSONResponse, Request, Response
from side4video.app.worker import reason
from side4video.errors import Side4VideoError

logger = logging.getLogger(__name__)
_MAX_BODY_BYTES = 8192
# of an upload that is refused, as much is read and thrown away, so that the browser hears why
_DRAINED_BYTES = 8 * 2**20
_DRAIN_SECONDS = 5.0
_MAX_TEXT = 500


def session_of(request: Request) -> Session:
    """The visitor's session, which the guard has found."""
    return cast("Session", request.state.session)


async def small_body(request: Request) -> bytes:
    """The body of a request that must be small.

    Raises:
        RefusalError: it is not.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise RefusalError(413, "this request is too large")
    return body


async def small_json(request: Request) -> dict[str, Any]:
    """The JSON object in a small body.

    Raises:
        RefusalError: it is none, or not small.
    """
    body = await small_body(request)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RefusalError(400, "this request is not a JSON object")
    return cast("dict[str, Any]", value)


def wanted_text(asked: dict[str, Any]) -> str:
    """The sentence that is searched for.

    Raises:
        RefusalError: it is none, empty or very long.
    """
    text = asked.get("text")
    if not isinstance(text, str) or not text.strip():
        raise RefusalError(400, "say what to look for: the text is empty")
    if len(text) > _MAX_TEXT:
        raise RefusalError(400, f"the text is too long: {len(text)} characters, and at most {_MAX_TEXT} are taken")
    return " ".join(text.split())


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read a little of what still comes of a body, so that the answer is not lost in a broken connection."""
    thrown = 0
    with contextlib.suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in chunks:
                thrown += len(chunk)
                if thrown > _DRAINED_BYTES:
                    return


def add_error_answers(app: FastAPI) -> None:
    """Every refusal and every error becomes a JSON object with the message."""
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(Side4VideoError, _bad_input)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _broken)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    headers = {} if error.retry_seconds is None else {"Retry-After": str(round(error.retry_seconds))}
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


async def _bad_input(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": reason(error)}, 400)


async def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is nothing at this address; only this page's own videos and files are served, by their ids",
        405: "this cannot be done at this address",
    }
    return JSONResponse({"error": messages.get(error.status_code, str(error.detail))}, error.status_code)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _broken(_request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse({"error": "something went wrong in the server; its log says what"}, 500)
