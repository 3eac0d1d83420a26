"""Small data sets in the layout in which Something-Something and Kinetics are downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import av

from run.small_runs import draw_clip

# class number, its name in the published form, and the drawn motion
SOMETHING = (
    (86, "Pulling [something] from left to right", "slide-right"),
    (87, "Pulling [something] from right to left", "slide-left"),
    (173, "Zooming into [something]", "grow"),
)
KINETICS = ((0, "abseiling", "grow"), (211, "playing cards", "slide-left"), (399, "zumba", "slide-right"))
SPLITS = (("train", 4), ("validation", 1))


def plain(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def something_names() -> list[str]:
    """174 classes, the drawn ones in their places."""
    names = [f"Doing {number:03d} with something" for number in range(174)]
    for number, template, _ in SOMETHING:
        names[number] = plain(template)
    return names


def draw_ssv2(root: Path) -> list[str]:
    """`20bn-something-something-v2/ID.webm` and `labels/*.json`; the names of the clips of training and validation."""
    videos, labels, ids = root / "20bn-something-something-v2", root / "labels", []
    labels.mkdir(parents=True)
    for split, copies in SPLITS:
        entries = []
        for number, template, motion in SOMETHING:
            for copy in range(copies):
                name = f"{1000 + len(ids)}"
                # a Matroska file, which is what webm is
                draw_clip(videos / f"{name}.mkv", motion, seed=number + copy).rename(videos / f"{name}.webm")
                entries.append({"id": name, "label": "x", "template": template, "placeholders": ["x"]})
                ids.append(name)
        (labels / f"{split}.json").write_text(json.dumps(entries))
    names = {name: str(number) for number, name in enumerate(something_names())}
    (labels / "labels.json").write_text(json.dumps(names))
    draw_clip(videos / "7.mkv", "grow", seed=1).rename(videos / "7.webm")
    (labels / "test.json").write_text(json.dumps([{"id": "7"}]))
    return ids


def draw_ssv1(root: Path) -> list[str]:
    """`20bn-something-something-v1/ID/00001.jpg` and CSV files beside it."""
    ids: list[str] = []
    for split, copies in SPLITS:
        lines: list[str] = []
        for number, template, motion in SOMETHING:
            for copy in range(copies):
                folder = root / "20bn-something-something-v1" / f"{1000 + len(ids)}"
                video = draw_clip(folder.with_suffix(".mp4"), motion, seed=number + copy, num_frames=9)
                folder.mkdir()
                with av.open(str(video)) as container:
                    for frame_number, frame in enumerate(container.decode(video=0), start=1):
                        frame.to_image().save(folder / f"{frame_number:05d}.jpg")
                video.unlink()
                lines.append(f"{folder.name};{plain(template)}\n")
                ids.append(folder.name)
        (root / f"something-something-v1-{split}.csv").write_text("".join(lines))
    (root / "something-something-v1-labels.csv").write_text("".join(f"{name}\n" for name in something_names()))
    return ids


def draw_k400(root: Path) -> list[str]:
    """`train/NAME_000010_000020.mp4`, `val/...` and CSV files; 400 classes are in the label file."""
    ids: list[str] = []
    for split, copies in (("train", 4), ("val", 1)):
        rows = ["label,youtube_id,time_start,time_end,split\n"]
        for number, label, motion in KINETICS:
            for copy in range(copies):
                name = f"-yt_{number}x{copy}{split}"
                draw_clip(root / split / f"{name}_000010_000020.mp4", motion, seed=number + copy)
                rows.append(f"{label},{name},10,20,{split}\n")
                ids.append(f"{split}/{name}_000010_000020")
        (root / f"{split}.csv").write_text("".join(rows))
    named = {number: label for number, label, _ in KINETICS}
    lines = [f"{number},{named.get(number, f'action {number}')}\n" for number in range(400)]
    (root / "kinetics_400_labels.csv").write_text("id,name\n" + "".join(lines))
    return ids


DRAW = {"ssv1": draw_ssv1, "ssv2": draw_ssv2, "k400": draw_k400}
