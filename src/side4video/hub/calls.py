"""Calls to the hub that fail fast and clearly, and never show a token."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from huggingface_hub import constants, get_token

from side4video.backbones.hub import reachable
from side4video.errors import CheckpointError

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}|(?<=Bearer )\S+")


def is_online() -> bool:
    """Whether the hub may be asked, and answers."""
    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


def why_offline() -> str:
    """Why `is_online` says no."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return f"{constants.ENDPOINT} cannot be reached"


@contextmanager
def asking(what: str, token: str | None) -> Generator[None]:
    """Around calls to the hub; `what` begins the message of what went wrong.

    Raises:
        CheckpointError: from anything that the client raises.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - clients of the hub raise what their HTTP library raises
        # not chained: a traceback would print what the client knows, and that may be a token
        raise CheckpointError(f"{what}: {_reason(error, token)}") from None


def _reason(error: Exception, token: str | None) -> str:
    kind = type(error).__name__
    if kind == "LocalTokenNotFoundError":
        return "no token: log in with `hf auth login`, or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub says no ({status}): there is no such repository, or no token here may see or change it"
    if status == 404 or kind == "RepositoryNotFoundError":
        return "the hub has no such repository or revision"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), kind)
    return without_tokens(first, token)


def without_tokens(text: str, token: str | None = None) -> str:
    """A text in which whatever looks like a token, or is one of ours, is replaced."""
    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(str(secret), "<token>")
    return _TOKEN.sub("<token>", text)
