"""The folder of uploads: private, bounded, and gone afterwards, also after a page that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from side4video.app.refusal import RefusalError
from side4video.app.workspace import Workspace
from side4video.errors import ConfigError


def test_names_are_random_and_nobody_else_can_look(tmp_path: Path) -> None:
    workspace = Workspace(10**6, tmp_path)
    names = {workspace.new_file(".mp4").name for _ in range(50)}
    assert len(names) == 50
    assert all(len(name) == 36 for name in names)
    assert workspace.folder.stat().st_mode & 0o077 == 0
    workspace.close()
    assert list(tmp_path.iterdir()) == []
    workspace.close()


def test_room_is_bounded_and_comes_back(tmp_path: Path) -> None:
    workspace = Workspace(1000, tmp_path)
    first, second = workspace.new_file(), workspace.new_file()
    workspace.reserve(first, 700)
    with pytest.raises(RefusalError, match="no room for 400 B on the server now") as refused:
        workspace.reserve(second, 400)
    assert refused.value.status == 507
    first.write_bytes(b"x" * 500)
    workspace.settle(first)
    assert workspace.used_bytes == 500
    workspace.reserve(second, 400)
    workspace.remove(first)
    workspace.reserve(second, 1000)
    with pytest.raises(RefusalError, match="has been removed"):
        workspace.settle(first)
    workspace.close()


def test_a_full_disk_is_a_refusal(tmp_path: Path) -> None:
    workspace = Workspace(10**18, tmp_path)
    with pytest.raises(RefusalError, match="no room"):
        workspace.reserve(workspace.new_file(), 10**17)
    workspace.close()


def test_what_a_killed_page_left_is_removed_and_a_running_ones_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from side4video.app.workspace import Workspace\n"
        "w = Workspace(10**6, Path(sys.argv[1])); w.new_file().write_bytes(b'video'); print(w.folder, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    (tmp_path / "side4video-app-link").symlink_to(tmp_path.parent)
    long_ago = time.time() - 3600
    os.utime(left, (long_ago, long_ago))
    Workspace(10**6, tmp_path).close()
    assert left.is_dir(), "the folder of a page that runs"
    process.kill()
    process.wait()
    process.stdout.close()
    os.utime(left, (long_ago, long_ago))
    Workspace(10**6, tmp_path).close()
    assert not left.exists()
    assert tmp_path.parent.is_dir()
    assert (tmp_path / "side4video-app-link").is_symlink()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="uploads cannot be kept there: No such file"):
        Workspace(10**6, tmp_path / "nowhere")
