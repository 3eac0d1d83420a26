"""Downloads that fail fast: no long retries on a machine without internet, and an error that says what to do.

The libraries download through huggingface_hub, which waits half a minute over a host that it cannot reach. Before a
download the host is knocked at once; when nobody answers, the library is told to use its cache alone.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

from side4video.errors import BackboneError

KNOCK_SECONDS = 3.0
STALL_SECONDS = 30.0


@contextmanager
def downloading(name: str, *, url: str = "") -> Generator[None]:
    """Around a library's download of the weights of `name`; `url` where they are not on the hub.

    Raises:
        BackboneError: when they are neither in the cache nor to be had.
    """
    address = url or constants.ENDPOINT
    online = not constants.HF_HUB_OFFLINE and reachable(address)
    offline_before, stall_before = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = not online
    socket.setdefaulttimeout(STALL_SECONDS if online else KNOCK_SECONDS)
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, BackboneError):
            raise
        host = urlsplit(address).hostname
        state = "HF_HUB_OFFLINE is set" if offline_before else f"{host} cannot be reached"
        reason = str(error).splitlines()[0] if online and str(error) else state
        raise BackboneError(
            f"backbone {name!r}: its weights are not in the cache and cannot be downloaded ({reason}); "
            "give a local file with weights=PATH, or use tiny-clip, which needs no download"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline_before
        socket.setdefaulttimeout(stall_before)


def reachable(address: str) -> bool:
    """Whether the host of an address, or the proxy in front of it, takes a connection."""
    parts = urlsplit(address)
    proxy = getproxies().get(parts.scheme)
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=KNOCK_SECONDS):
            return True
    except OSError:
        return False
