"""Every request passes the guard: host names, origins, the password, and the headers of every answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from side4video.app.page import Access
from side4video.app.passwords import Password
from unit.app.stub import open_page

SECRET = "long enough"
OTHER_SITES = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:81"},
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


def test_every_answer_has_the_headers(temp: Path) -> None:
    with open_page(temp) as client:
        answers = [client.get(path) for path in ("/", "/api/state", "/static/app.js", "/nowhere")]
        answers.append(client.get("/", headers={"Host": "evil.example"}))
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert "server" not in answer.headers
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 421]


def test_the_page_needs_no_inline_script_or_style_and_nothing_from_elsewhere(temp: Path) -> None:
    with open_page(temp) as client:
        pages = [client.get("/").text]
        names = [part.split('"')[0] for part in pages[0].split("/static/")[1:]]
        for name in [*names, "viewer.js", "panels.js", "library.js", "upload.js", "dom.js"]:
            answer = client.get(f"/static/{name}")
            assert answer.status_code == 200, name
            pages.append(answer.text)
    assert len(pages) > 8
    assert not [page[:40] for page in pages[:1] if "style=" in page or "<script>" in page or "onclick=" in page]
    for page in pages:
        assert "https://" not in page
        assert "//" not in page.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "169.254.169.254"])
def test_a_foreign_host_name_is_refused(temp: Path, host: str) -> None:
    with open_page(temp) as client:
        answer = client.get("/api/state", headers={"Host": host})
        assert answer.status_code == 421
        assert "does not answer to that host name" in answer.json()["error"]
        assert "set-cookie" not in answer.headers
        for own in ("localhost", "127.0.0.1:8080", "[::1]:9", "LOCALHOST:1"):
            assert client.get("/api/state", headers={"Host": own}).status_code == 200


def test_a_public_page_answers_to_addresses_and_to_the_names_it_was_given(temp: Path) -> None:
    access = Access(names=frozenset({"studio.example"}), is_public=True, password=Password(SECRET))
    with open_page(temp, access=access) as client:
        for host, status in (("studio.example", 200), ("10.1.2.3:80", 200), ("[fe80::1]", 200), ("evil.example", 421)):
            assert client.get("/login", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_what_another_site_sends_is_refused(temp: Path, headers: dict[str, str], clip: bytes) -> None:
    with open_page(temp) as client:
        answer = client.post("/api/videos", content=clip, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["error"]
        own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        assert client.post("/api/videos", content=clip, headers=own).status_code == 201


def test_the_cookie_is_opaque_and_cannot_be_read_or_sent_by_others(temp: Path) -> None:
    with open_page(temp, access=Access(cookie="side4video-7")) as client:
        cookie = client.get("/").headers["set-cookie"]
        name, _, rest = cookie.partition("=")
        value, *flags = rest.split("; ")
        assert name == "side4video-7"
        assert len(value) >= 43
        assert set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict"}
        # the browser has it now: it is given no other
        assert "set-cookie" not in client.get("/").headers
        assert "set-cookie" in client.get("/", headers={"Cookie": "side4video-7=made-up"}).headers


def test_nothing_is_shown_without_the_password(temp: Path, clip: bytes) -> None:
    with open_page(temp, access=Access(password=Password(SECRET)), follow_redirects=False) as client:
        assert client.get("/").headers["location"] == "/login"
        for method, path in (
            ("GET", "/api/state"),
            ("POST", "/api/videos"),
            ("GET", "/api/videos/x/media"),
            ("GET", "/api/moments/x/media"),
            ("POST", "/api/libraries/0/search"),
            ("GET", "/loginx"),
        ):
            answer = client.request(method, path, content=clip if method == "POST" else None)
            assert answer.status_code == 401, path
            assert "set-cookie" not in answer.headers
        assert client.post("/logout").headers["location"] == "/login"
        assert client.get("/static/app.css").status_code == 200
        assert 'type="password"' in client.get("/login").text
        wrong = client.post("/login", data={"password": "not the right one"})
        assert wrong.status_code == 403
        assert "not the password" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = client.post("/login", data={"password": SECRET})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        assert client.get("/api/state").status_code == 200
        assert "Log out" in client.get("/").text
        assert client.get("/login").headers["location"] == "/"
        cookie = dict(client.cookies)
        assert client.post("/logout").headers["location"] == "/login"
        client.cookies.update(cookie)
        assert client.get("/api/state").status_code == 401


def test_a_login_from_another_site_is_refused(temp: Path) -> None:
    with open_page(temp, access=Access(password=Password(SECRET))) as client:
        answer = client.post("/login", data={"password": SECRET}, headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert client.post("/login", content=b"x" * 9000).status_code == 413
