"""The report page: one file, everything on it, nothing asked of anyone, and no markup from class names."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from side4video.cli.charts import Line, confusion_chart, line_chart
from side4video.cli.report_page import Curves, ReportData, ScoredClip, render_report, thumbnails

NAMES = ("move <left>", 'move "right"', "grow & shrink")
PIXEL = "data:image/jpeg;base64,AAAA"

DATA = ReportData(
    title="my <run>",
    subtitle="7 clips",
    top1=0.5,
    top5=1.0,
    mean_class=0.25,
    class_names=NAMES,
    confusion=[[3, 1, 0], [2, 0, 0], [0, 0, 0]],
    hardest=[
        ScoredClip("a/<b>.mp4", NAMES[0], NAMES[1], 0.125, 0.75, (PIXEL, PIXEL)),
        ScoredClip("a/c.mp4", NAMES[1], NAMES[0], 0.2, 0.6),
    ],
    broken=[("a/broken.mp4", "no <video> stream")],
    curves=[
        Curves("Loss", [Line("training", [(1, 2.0), (2, 1.0)]), Line("validation", [(1, 2.5), (2, 1.5)])]),
        Curves("Top-1", [Line("training", [(1, 0.1), (2, 0.9)])], percent=True),
    ],
    warnings=["mind <this>"],
    settings=[("data.flip", "on")],
    footer="made today",
)


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_is_on_the_page() -> None:
    page = Page(render_report(DATA))
    for text in (
        "my <run>", "7 clips", "50.0 %", "100.0 %", "25.0 %", "mind <this>", "data.flip", "made today",
        "move <left>", 'move "right"', "75 % of 4", "0 % of 2", "a/<b>.mp4", "12.5 %", "75.0 %",
        "a/broken.mp4", "no <video> stream", "Not tested, as no clip has this label: grow & shrink", "2 of 2", "1 of 4",
    ):  # fmt: skip
        assert text in page.text, text
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == [PIXEL, PIXEL]
    assert "no picture" in page.text


def test_names_from_files_are_text_and_never_markup() -> None:
    page = Page(render_report(DATA))
    assert not {"left", "run", "b", "video", "this"} - {"b"} & {tag for tag, _ in page.tags}
    assert "<left>" not in render_report(DATA)
    assert "<run>" not in render_report(DATA)


def test_the_page_asks_nobody_for_anything() -> None:
    text = render_report(DATA)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in {"src", "href", "action", "data", "poster", "srcset"}:
                assert (value or "").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text


def test_the_page_fits_phones_and_the_dark() -> None:
    text = render_report(DATA)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_parts_without_content_are_left_out() -> None:
    text = Page(render_report(replace(DATA, broken=[], curves=[], warnings=[], settings=[]))).text
    for title in ("Mind this", "Loss", "could not be read", "Settings of the run"):
        assert title not in text.replace("the frames could not be read", "")


def test_a_page_of_many_classes_folds_them() -> None:
    count = 45
    names = [f"class {number}" for number in range(count)]
    confusion = [[int(row == column) * 3 for column in range(count)] for row in range(count)]
    text = render_report(replace(DATA, class_names=names, confusion=confusion))
    assert "the other 5 classes" in text
    assert text.count('class="bar"') == count


@pytest.mark.parametrize("percent", [False, True])
def test_curves_are_drawn_inside_the_picture(percent: bool) -> None:
    line = Line("a & b", [(1, 0.25), (2, 0.75), (5, 0.5)])
    root = ElementTree.fromstring(line_chart([line], x_name="epoch", percent=percent))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    (curve,) = root.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
    assert len(points) == 3
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert points[0][1] > points[2][1] > points[1][1], "larger is higher"
    # x is to scale: 1, 2, 5
    assert points[2][0] - points[0][0] == pytest.approx(4 * (points[1][0] - points[0][0]), abs=0.5)


@pytest.mark.parametrize("points", [[(1.0, 0.0)], [(1.0, 3.0)], [(1.0, 2.0), (2.0, 2.0)], [(1.0, 1e-9), (2.0, 1e9)]])
def test_odd_curves_are_drawn_too(points: list[tuple[float, float]]) -> None:
    text = line_chart([Line("a", points)], x_name="epoch")
    assert "nan" not in text
    assert "inf" not in text
    ElementTree.fromstring(text)


def test_curves_need_numbers() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        line_chart([Line("a", [])], x_name="epoch")
    with pytest.raises(ValueError, match="finite"):
        line_chart([Line("a", [(1, float("nan"))])], x_name="epoch")


def test_confusion_cells_stand_where_they_belong() -> None:
    root = ElementTree.fromstring(confusion_chart([[3, 1, 0], [2, 0, 0], [0, 0, 5]], NAMES))
    cells = {group[0].text: group for group in root.iter("g")}
    assert set(cells) == {
        "move <left>: 3 of 4",
        'move <left> called move "right": 1 of 4',
        'move "right" called move <left>: 2 of 2',
        "grow & shrink: 5 of 5",
    }
    right, wrong = cells["grow & shrink: 5 of 5"][1], cells['move "right" called move <left>: 2 of 2'][1]
    assert right.attrib["class"] == "hit"
    assert wrong.attrib["class"] == "miss"
    assert float(wrong.attrib["y"]) < float(right.attrib["y"]), "rows are true classes, in order"
    assert float(wrong.attrib["x"]) < float(right.attrib["x"])
    assert float(right.attrib["fill-opacity"]) == pytest.approx(1.0)


def test_a_large_confusion_matrix_stays_small() -> None:
    count = 400
    confusion = [[int(row == column) * 5 for column in range(count)] for row in range(count)]
    text = confusion_chart(confusion, [f"class {number}" for number in range(count)])
    assert len(text) < 100_000
    ElementTree.fromstring(text)


def test_thumbnails_are_frames_in_order(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame_HWC = np.full((48, 64, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())

    def shades(addresses: tuple[str, ...]) -> list[float]:
        images = [Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) for address in addresses]
        assert {image.size for image in images} == {(224, 168)}
        return [float(np.asarray(image).mean()) for image in images]

    assert shades(thumbnails(path)) == pytest.approx([12 * 2, 12 * 7, 12 * 12, 12 * 17], abs=6)
    part = shades(thumbnails(path, start_seconds=1.0, end_seconds=1.4))
    assert part == pytest.approx([12 * 10, 12 * 11, 12 * 12, 12 * 13], abs=6)
    (tmp_path / "broken.mp4").write_text("no video")
    assert thumbnails(tmp_path / "broken.mp4") == ()
    assert thumbnails(tmp_path / "gone.mp4") == ()
