"""The password of a page that others can reach: compared in constant time, and guesses are slowed down."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from side4video.app.refusal import RefusalError
from side4video.errors import ConfigError

MIN_LENGTH = 8
_MAX_ADDRESSES = 10_000


class Password:
    """Checks passwords. A visitor's address has `tries` wrong ones a minute, everybody together twenty times as many.
    `clock` gives the time in seconds.

    Raises:
        ConfigError: a password that is too short.
    """

    def __init__(self, password: str, *, tries: int = 6, clock: Callable[[], float] = time.monotonic) -> None:
        if len(password) < MIN_LENGTH:
            raise ConfigError(f"the password must have at least {MIN_LENGTH} characters; got {len(password)}")
        # scrypt makes each guess dear, also for whoever gets hold of the memory
        self._salt = secrets.token_bytes(16)
        self._digest = self._hash(password)
        self._buckets: OrderedDict[str | None, tuple[float, float]] = OrderedDict()
        self._tries, self._clock, self._guard = tries, clock, Lock()

    def check(self, given: str, address: str) -> bool:
        """Whether it is the password.

        Raises:
            RefusalError: too many wrong ones from there, or from everywhere.
        """
        for key, most in ((address, self._tries), (None, 20 * self._tries)):
            wait = self._take(key, most)
            if wait:
                raise RefusalError(
                    429, f"too many wrong passwords; try again in {math.ceil(wait)} s", retry_seconds=math.ceil(wait)
                )
        right = hmac.compare_digest(self._hash(given[:1024]), self._digest)
        if right:
            with self._guard:
                self._buckets.pop(address, None)
        return right

    def _hash(self, password: str) -> bytes:
        return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=self._salt, n=2**12, r=8, p=1)

    def _take(self, key: str | None, most: int) -> float:
        """Use up one try; seconds to wait when there is none. Tries come back evenly over a minute."""
        now = self._clock()
        with self._guard:
            left, since = self._buckets.pop(key, (float(most), now))
            left = min(float(most), left + (now - since) * most / 60)
            allowed = left >= 1
            self._buckets[key] = (left - 1 if allowed else left, now)
            while len(self._buckets) > _MAX_ADDRESSES:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) * 60 / most
