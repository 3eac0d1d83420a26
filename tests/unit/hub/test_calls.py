from __future__ import annotations

import pytest

from side4video.errors import CheckpointError
from side4video.hub.calls import asking, without_tokens

TOKEN = "my-own-kind-of-token-123"


def test_what_looks_like_a_token_or_is_one_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_tokens("no, not with Bearer abc.def-1, sorry") == "no, not with Bearer <token> sorry"
    assert without_tokens("tried hf_AbCdEf123456: no") == "tried <token>: no"
    assert without_tokens(f"tried {TOKEN}: no", TOKEN) == "tried <token>: no"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert without_tokens(f"tried {TOKEN}: no") == "tried <token>: no"
    assert without_tokens("nothing secret") == "nothing secret"


def test_an_error_of_the_client_becomes_one_line_without_a_chain() -> None:
    def broken() -> None:
        with asking("hf:me/run", TOKEN):
            raise KeyError(f"header Authorization: {TOKEN}\nand more")

    with pytest.raises(CheckpointError, match=r"^hf:me/run: ") as caught:
        broken()
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(CheckpointError, match=r"^ours$"), asking("hf:me/run", None):
        raise CheckpointError("ours")


@pytest.mark.parametrize(("status", "message"), [(401, "says no"), (403, "says no"), (404, "no such repository")])
def test_statuses_are_told_in_words(status: int, message: str) -> None:
    class RefusedError(Exception):
        response = type("Response", (), {"status_code": status})

    with pytest.raises(CheckpointError, match=message), asking("hf:me/run", None):
        raise RefusedError("<html>")
