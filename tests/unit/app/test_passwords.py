"""Passwords: right and wrong ones, and how many guesses a minute has."""

from __future__ import annotations

import pytest

from side4video.app.passwords import Password
from side4video.app.refusal import RefusalError
from side4video.errors import ConfigError


def test_right_and_wrong() -> None:
    password = Password("pässwörd 1")
    assert password.check("pässwörd 1", "a")
    for wrong in ("", "passwörd 1", "pässwörd 1 ", "pässwörd", "x" * 5000, "\udcff"):
        assert not password.check(wrong, wrong[:3])


def test_guesses_are_slowed_down_by_address_and_in_all() -> None:
    now = 1000.0
    password = Password("long enough", tries=3, clock=lambda: now)
    for _ in range(3):
        assert not password.check("wrong", "1.2.3.4")
    with pytest.raises(RefusalError, match="too many wrong passwords; try again in 20 s") as refused:
        password.check("long enough", "1.2.3.4")
    assert refused.value.status == 429
    assert password.check("long enough", "5.6.7.8")
    now += 20.1
    assert password.check("long enough", "1.2.3.4")
    # a right one gives the address its tries back
    assert not password.check("wrong", "1.2.3.4")
    assert not password.check("wrong", "1.2.3.4")
    # many addresses together have twenty times as many
    answers = []
    for number in range(100):
        try:
            answers.append(password.check("wrong", f"10.0.0.{number}"))
        except RefusalError:
            break
    spent = len(answers)
    assert not any(answers)
    assert 40 < spent < 60


def test_a_short_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8 characters; got 5"):
        Password("short")
