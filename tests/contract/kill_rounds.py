"""Kills a process that writes a store, again and again, and says what the store holds after each time.

Run as `python kill_rounds.py KIND FOLDER ROUNDS SEED`. Each round forks a writer, kills it with SIGKILL at a moment
that the seed draws, and forks a reader. Odd rounds kill during upserts, even ones during `optimise`. One
JSON line a round.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import torch

from side4video.search.store import StoreIdentity, Window, WindowPoint
from side4video.search.stores import open_store

EMBED_DIM, FRAMES, BATCH, WINDOWS = 256, 16, 25, 700


def point(number: int) -> WindowPoint:
    """The window with this number, with the same vectors every time; five windows a video."""
    video, place = divmod(number, 5)
    window = Window(f"d{video % 3}/v{video}.mp4", f"hash{video}", place, 5, 2.0 * place, 2.0 * place + 4.0, 30.0)
    frames_TE = torch.randn(FRAMES, EMBED_DIM, generator=torch.Generator().manual_seed(number))
    return WindowPoint(window, frames_TE)


def write(kind: str, folder: Path, first: int, acks: int) -> None:
    """Upsert batch after batch from window `first` on, tell `acks` what is safe, then optimise."""
    store = open_store(folder, identity=StoreIdentity(EMBED_DIM), kind=kind, wait_seconds=10)
    os.write(acks, b"open\n")
    for start in range(first, first + WINDOWS, BATCH):
        store.upsert([point(number) for number in range(start, start + BATCH)])
        os.write(acks, f"{start + BATCH}\n".encode())
    while True:
        os.write(acks, b"optimise\n")
        store.optimise()
        # something to do again
        store.upsert([point(number) for number in range(first, first + BATCH)])


def read(folder: Path, safe: int, sent: int) -> dict[str, object]:
    """What is in the store, compared with what `write` was told is safe and what it may have sent."""
    store = open_store(folder, wait_seconds=10)
    found = [found for batch in store.scan() for found in batch]
    ids = [f.window.id for f in found]
    known = {point(number).window.id: number for number in range(sent)}
    lost = [number for window_id, number in known.items() if number < safe and window_id not in set(ids)]
    checked = store.fetch(ids[:: max(1, len(ids) // 50)], with_frames=True)
    wrong = [f.window.id for f in checked if (f.frames_TE - point(known[f.window.id]).frames_TE).abs().max() > 1e-5]
    store.close()
    return {
        "safe": safe,
        "count": len(ids),
        "doubled": len(ids) - len(set(ids)),
        "unknown": len(set(ids) - set(known)),
        "lost": lost,
        "wrong": wrong,
    }


def run_round(kind: str, folder: Path, first: int, mark: bytes, delay: float) -> tuple[int, bool]:
    """Fork a writer, kill it `delay` seconds after it said `mark`; the last window that is safe, and was it killed?"""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        write(kind, folder, first, writing)
        os._exit(1)
    os.close(writing)
    text, deadline = b"", None
    while deadline is None or time.monotonic() < deadline:
        if select.select([reading], [], [], 0.005)[0]:
            part = os.read(reading, 4096)
            if not part:
                break  # the writer ended by itself: an error, which is on stderr
            text += part
        if deadline is None and mark in text:
            deadline = time.monotonic() + delay
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while part := os.read(reading, 4096):
        text += part
    os.close(reading)
    numbers = [int(line) for line in text.split(b"\n")[:-1] if line.isdigit()]
    return max(numbers, default=first), os.WIFSIGNALED(status)


def fork_read(folder: Path, safe: int, sent: int) -> dict[str, object]:
    """`read` in a process of its own, since the database's threads do not survive a fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(writing, "w") as file:
            json.dump(read(folder, safe, sent), file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = json.load(file)
    os.waitpid(pid, 0)
    return answer


def main(kind: str, folder: Path, rounds: int, seed: int) -> None:
    """All rounds."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    safe = 0
    for number in range(1, rounds + 1):
        optimising = number % 2 == 0
        mark, delay = (b"optimise", draw.uniform(0, 0.8)) if optimising else (b"open", draw.uniform(0, 0.3))
        first = safe
        safe, killed = run_round(kind, folder, first, mark, delay)
        answer = fork_read(folder, safe, first + WINDOWS)
        print(json.dumps({"round": number, "optimising": optimising, "killed": killed, **answer}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
