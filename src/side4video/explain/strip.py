"""An explanation as one picture: the frames, the same with their maps, and bars for moments and for parts.

Bars have signs: upward (and to the right) is what speaks for the label, downward what speaks against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from side4video.explain.attribution import Explanation
from side4video.explain.painting import overlay

FRAMES_PER_ROW = 8
_FRAME_WIDTH = 168
_GAP, _MARGIN, _TITLE, _CAPTION, _BARS = 6, 18, 62, 20, 72
_TAP_LINE, _TAP_NAME, _TAP_BARS = 24, 96, 320
_INK, _FAINT, _PAPER = (32, 34, 40), (130, 134, 142), (255, 255, 255)
_FOR, _AGAINST = (226, 92, 30), (70, 120, 190)


@dataclass(frozen=True)
class _Pencil:
    """A sheet and the means to write on it."""

    draw: ImageDraw.ImageDraw
    text: ImageFont.FreeTypeFont | ImageFont.ImageFont
    title: ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_strip(
    frames_THWC: NDArray[np.uint8], explanation: Explanation, *, title: str, seconds_T: Sequence[float]
) -> Image.Image:
    """The picture; `seconds_T` are the times of the frames.

    Raises:
        ValueError: another number of frames or times than the explanation has.
    """
    num_frames = len(explanation.frames_T)
    if len(frames_THWC) != num_frames or len(seconds_T) != num_frames:
        raise ValueError(
            f"the explanation is of {num_frames} frames; got {len(frames_THWC)} frames and {len(seconds_T)} times"
        )
    frame_height = max(1, round(_FRAME_WIDTH * frames_THWC.shape[1] / frames_THWC.shape[2]))
    columns = min(num_frames, FRAMES_PER_ROW)
    rows = -(-num_frames // FRAMES_PER_ROW)
    row_height = 2 * frame_height + _GAP + _CAPTION + _BARS + _GAP
    width = 2 * _MARGIN + max(columns * (_FRAME_WIDTH + _GAP) - _GAP, _TAP_NAME + _TAP_BARS + 80)
    height = _TITLE + rows * row_height + 2 * _TAP_LINE + _TAP_LINE * len(explanation.tap_names) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pencil = _Pencil(ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(18))
    _head(pencil, explanation, title, width - 2 * _MARGIN)
    painted_THWC = overlay(frames_THWC, explanation.maps_TYX)
    moments_T = explanation.contributions_LT.sum(0).numpy()
    for number in range(num_frames):
        row, column = divmod(number, FRAMES_PER_ROW)
        left, top = _MARGIN + column * (_FRAME_WIDTH + _GAP), _TITLE + row * row_height
        for picture_HWC, below in ((frames_THWC[number], 0), (painted_THWC[number], frame_height + _GAP)):
            picture = Image.fromarray(picture_HWC).resize((_FRAME_WIDTH, frame_height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top + below))
        _moment(pencil, moments_T, number, seconds_T[number], (left, top + 2 * frame_height + _GAP))
    _parts(pencil, explanation, _TITLE + rows * row_height)
    return sheet


def _head(pencil: _Pencil, explanation: Explanation, title: str, room: int) -> None:
    score = f"{100 * explanation.score:.1f} %" if explanation.target is not None else f"{explanation.score:.3f}"
    kind = "log-odds" if explanation.target is not None else "similarity"
    ends = f"{kind} {explanation.evidence:+.2f}, without places and moments {explanation.baseline:+.2f}"
    for top, font, colour, name, rest in (
        (10, pencil.title, _INK, explanation.label, f"  {score}"),
        (36, pencil.text, _FAINT, title, f"   {ends}; bars: what each adds"),
    ):
        pencil.draw.text((_MARGIN, top), _fitting(pencil, font, name, rest, room), fill=colour, font=font)


def _fitting(
    pencil: _Pencil, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, name: str, rest: str, room: int
) -> str:
    """The name and what follows it on one line, the name cut short where that is too long."""
    kept = name
    while kept and pencil.draw.textlength(f"{kept}...{rest}", font=font) > room:
        kept = kept[:-1]
    return f"{name if len(kept) == len(name) else f'{kept}...'}{rest}"


def _moment(
    pencil: _Pencil, moments_T: NDArray[np.float32], number: int, seconds: float, corner: tuple[int, int]
) -> None:
    left, top = corner
    value = float(moments_T[number])
    pencil.draw.text((left, top + 3), f"{seconds:.2f} s", fill=_FAINT, font=pencil.text)
    pencil.draw.text((left + _FRAME_WIDTH, top + 3), f"{value:+.2f}", fill=_INK, font=pencil.text, anchor="ra")
    above, below = max(0.0, float(moments_T.max())), max(0.0, float(-moments_T.min()))
    room = (_BARS - 8) / max(above + below, 1e-12)
    zero = top + _CAPTION + above * room
    ends = sorted((zero, zero - value * room))
    pencil.draw.rectangle((left, ends[0], left + _FRAME_WIDTH, ends[1]), fill=_FOR if value > 0 else _AGAINST)
    pencil.draw.line((left, zero, left + _FRAME_WIDTH, zero), fill=_FAINT)


def _parts(pencil: _Pencil, explanation: Explanation, top: int) -> None:
    values = explanation.contributions_LT.sum(1).tolist()
    pencil.draw.text((_MARGIN, top), "what enters the side network", fill=_FAINT, font=pencil.text)
    reach = max(0.0, *values) - min(0.0, *values)
    room = _TAP_BARS / max(reach, 1e-12)
    zero = _MARGIN + _TAP_NAME - min(0.0, *values) * room
    for number, (name, value) in enumerate(zip(explanation.tap_names, values, strict=True)):
        line = top + _TAP_LINE * (number + 1)
        pencil.draw.text((_MARGIN, line), name, fill=_INK, font=pencil.text)
        ends = sorted((zero, zero + value * room))
        pencil.draw.rectangle((ends[0], line + 1, ends[1], line + 14), fill=_FOR if value > 0 else _AGAINST)
        end = max(ends[1], zero) + 8
        pencil.draw.text((end, line), f"{value:+.2f}", fill=_INK, font=pencil.text)
