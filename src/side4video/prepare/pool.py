"""Work on many files in several processes that neither a crash of one nor the death of the parent leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    crashed: Callable[[Task], Result],
    preload: Sequence[str] = (),
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function` gives for it, in the order in which they are done.

    `preload` names modules that the processes are to find imported.

    A task that kills its process gives `crashed`, and the others go on. An exception of `function` ends everything.
    With one worker there are no processes. When the parent dies, however it dies, the processes follow.
    """
    if workers == 1:
        for task in tasks:
            yield task, function(task)
        return
    rest = iter(tasks)
    suspects: list[Task] = []
    while True:
        try:
            yield from _run_pool(function, rest, workers, suspects, preload)
            return
        except BrokenProcessPool:
            in_flight, suspects = suspects, []
        for task in in_flight:
            try:
                yield from _run_pool(function, iter([task]), 1, [], preload)
            except BrokenProcessPool:
                yield task, crashed(task)


def _run_pool(
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    workers: int,
    in_flight: list[Task],
    preload: Sequence[str],
) -> Iterator[tuple[Task, Result]]:
    running: dict[Future[Result], Task] = {}
    pool = ProcessPoolExecutor(workers, mp_context=_context(preload), initializer=_stay_with_parent)
    try:
        while True:
            for task in islice(tasks, 2 * workers - len(running)):
                in_flight.append(task)
                running[pool.submit(function, task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                task = running.pop(future)
                in_flight.remove(task)
                yield task, result
    finally:
        # what has begun is finished (a clip is written whole or not at all), what waits is dropped
        pool.shutdown(wait=True, cancel_futures=True)


def _context(preload: Sequence[str]) -> BaseContext:
    """One process that has imported everything and is copied, or new ones where that is not had."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload(list(preload))
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, previous)
    return multiprocessing.get_context("forkserver")


def _stay_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
