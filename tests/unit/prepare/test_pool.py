"""Work in processes: results, crashes that are named, errors that end it, and nothing left when the parent dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from side4video.prepare.pool import in_processes

SLEEPERS = """
import time
from side4video.prepare.pool import in_processes
if __name__ == "__main__":
    for task, _ in in_processes(time.sleep, [0.01, 0.01, 600, 600], workers=2, crashed=print):
        print(task, flush=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_comes_with_its_result(workers: int) -> None:
    tasks = [-3, 5, -7, 11]
    found = dict(in_processes(abs, tasks, workers=workers, crashed=lambda _: -1))
    assert found == {-3: 3, 5: 5, -7: 7, 11: 11}


def test_a_crash_is_named_and_the_others_go_on() -> None:
    found = list(in_processes(_crash_at_three, [1, 2, 3, 4, 5], workers=2, crashed=lambda task: -task))
    assert sorted(found) == [(1, 10), (2, 20), (3, -3), (4, 40), (5, 50)]


def test_an_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        list(in_processes(_inverse, [1, 0, 2], workers=2, crashed=lambda _: 0.0))


def test_a_killed_parent_leaves_no_processes() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"0.01\n"
    assert parent.stdout.readline() == b"0.01\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(parent.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGKILL)
    pytest.fail("its processes outlived it")


def _crash_at_three(number: int) -> int:
    if number == 3:
        os._exit(7)
    return 10 * number


def _inverse(number: int) -> float:
    return 1 / number
