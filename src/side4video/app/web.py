"""The web framework, in one place: FastAPI and uvicorn come with the extra `web`.

Raises: MissingExtraError when this file is imported without them.
"""

from __future__ import annotations

from side4video.errors import MissingExtraError

try:
    import uvicorn
    from fastapi import APIRouter, FastAPI, Request
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "fastapi", "web") from error

__all__ = [
    "APIRouter",
    "ASGIApp",
    "ClientDisconnect",
    "FastAPI",
    "FileResponse",
    "HTMLResponse",
    "HTTPException",
    "Headers",
    "JSONResponse",
    "Message",
    "MutableHeaders",
    "Receive",
    "RedirectResponse",
    "Request",
    "Response",
    "Scope",
    "Send",
    "run_in_threadpool",
    "uvicorn",
]
