"""`side4video app`: a web page on this machine to drop videos on, and to search a library of footage."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from side4video.cli.console import note
from side4video.cli.main import DONE, Outcome
from side4video.cli.video_paths import check_run, is_run
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError, InputError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

USAGE = "RUN|LIB [RUN|LIB ...] [options]"
EXAMPLES = """  side4video app runs/mine
  side4video app runs/actions runs/sports lib --port 9000
  side4video app runs/mine --host 0.0.0.0 --password-file secret.txt"""

SHORT_FLAGS = {"--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "train.precision"})
PASSWORD = "SIDE4VIDEO_PASSWORD"


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words", nargs="+", metavar="RUN|LIB", help="run folders, and libraries that `side4video index` made"
    )
    parser.add_option(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; any other than this machine's own needs a password. Default: 127.0.0.1.",
    )
    parser.add_option(
        "--port", type=int, default=8080, metavar="N", help="port to listen at; 0 takes a free one. Default: 8080."
    )
    parser.add_option(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="another host name that the page may be opened by, such as a proxy's; may be given again",
    )
    parser.add_switch("--password", help="ask for a password here, which visitors must then give")
    parser.add_option(
        "--password-file", metavar="FILE", help=f"the password is the first line of this file; or set {PASSWORD}"
    )
    parser.add_option("--max-upload", default="200MB", metavar="SIZE", help="largest upload. Default: 200MB.")
    parser.add_option("--max-seconds", type=float, default=600.0, metavar="N", help="longest video. Default: 600.")
    parser.add_option("--max-disk", default="4GB", metavar="SIZE", help="room for all uploads together. Default: 4GB.")
    parser.add_option(
        "--queue", type=int, default=32, metavar="N", help="videos that may wait for their first result. Default: 32."
    )
    parser.add_option(
        "--temp", metavar="DIR", help="where uploads are kept while the page runs. Default: the system's folder."
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: an option has a value that is not allowed, a word is neither run nor library, or there is no
            password where one is needed.
        CheckpointError: a run is damaged.
        MissingExtraError: the extra `web` is not installed.
    """
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    runs = [Path(word) for word in dict.fromkeys(options.words) if is_run(Path(word))]
    libraries = [word for word in dict.fromkeys(options.words) if Path(word) not in runs]
    for word in libraries:
        if not _is_library(word):
            check_run(Path(word))
    is_public = not _is_loopback(options.host)
    password = _password(options)
    if is_public and password is None:
        raise ConfigError(
            f"--host {options.host} lets others reach the page, so it needs a password: --password-file FILE, "
            f"{PASSWORD}, or --password to type it here"
        )
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port: must be from 0 to 65535; got {options.port}")

    # the web framework and torch come in here: everything above is checked without them
    from side4video.app.build import build_analysis
    from side4video.app.limits import Limits
    from side4video.app.page import Access
    from side4video.app.passwords import Password
    from side4video.app.serve import serve
    from side4video.app.server import create_app

    limits = Limits(
        max_upload_bytes=_bytes("--max-upload", options.max_upload),
        max_seconds=options.max_seconds,
        max_disk_bytes=_bytes("--max-disk", options.max_disk),
        max_waiting=options.queue,
    )
    secret = None if password is None else Password(password)
    listener = _listen(options.host, options.port)
    with listener:
        port = listener.getsockname()[1]
        temp = None if options.temp is None else Path(options.temp)
        analysis = build_analysis(runs, libraries, overrides=overrides, limits=limits, temp=temp)
        access = Access(
            names=frozenset({*_names(options.host, is_public=is_public), *options.name}),
            is_public=is_public,
            password=secret,
            # cookies do not know ports, and two pages on one machine must not log each other out
            cookie=f"side4video-{port}",
        )
        url = f"http://{_shown(options.host)}:{port}/"
        try:
            page = create_app(analysis, access)
            serve(page, listener, on_ready=lambda: note(f"side4video app: {url} (Ctrl-C stops it)"))
        finally:
            analysis.workspace.close()
    return Outcome(DONE, {"url": url})


def _shown(host: str) -> str:
    """The host in an address that can be opened here."""
    if host in {"0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _bytes(flag: str, text: str) -> int:
    from side4video.memory.plan import parse_bytes

    try:
        return parse_bytes(text)
    except InputError as error:
        raise ConfigError(f"{flag}: {str(error).removeprefix('memory: ')}") from None


def _password(options: argparse.Namespace) -> str | None:
    if options.password and options.password_file is not None:
        raise ConfigError("--password and --password-file: give one of them")
    if options.password:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"--password asks on a terminal, and this is none; use --password-file FILE or {PASSWORD}"
            )
        return getpass.getpass("password for the page: ")
    if options.password_file is not None:
        try:
            lines = Path(options.password_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"--password-file {options.password_file}: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not lines or not lines[0].strip():
            raise ConfigError(f"--password-file {options.password_file}: its first line is empty")
        return lines[0].strip()
    return os.environ.get(PASSWORD) or None


def _is_library(word: str) -> bool:
    """Whether a word names a library: a folder with a store in it, or a server."""
    return word.startswith(("http://", "https://")) or (Path(word) / "store" / "store.json").is_file()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str, *, is_public: bool) -> set[str]:
    """Host names that the page answers to."""
    own = {socket.gethostname(), socket.getfqdn(), f"{socket.gethostname()}.local"} if is_public else set[str]()
    return {"localhost", "127.0.0.1", "::1", host, *own}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}; --port names another, 0 takes a free one"
        ) from None
