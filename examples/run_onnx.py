"""Run an exported classifier with numpy and onnxruntime alone; with PyAV (`pip install av`) also on video files.

    python run_onnx.py model.onnx video.mp4 [--clips 4] [--top-k 5] [--json]
    python run_onnx.py model.onnx frames.npy          frames as uint8 RGB, shape (frames, height, width, 3)

Everything that is needed to feed the model stands in the file's metadata, written by `side4video export`: which frames,
how a picture gets its size, mean and standard deviation, the names of the classes. This file needs neither side4video
nor torch: copy it into your program.
"""

import argparse
import json

import numpy as np
import onnxruntime


def main():
    """Read the model, look at the video, name the action."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("--clips", type=int, default=4, help="looks at the video, whose scores are averaged")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    if about["task"] != "recognition" or about["part"] != "full":
        parser.error(f"{options.model} is the {about['part']} part of a {about['task']} model; this runs classifiers")

    num_frames = about["inputs"][0]["shape"][1]
    num_frames = about["num_frames"] if num_frames == "frames" else num_frames
    frames = np.load(options.video) if options.video.endswith(".npy") else None
    total = count_frames(options.video) if frames is None else len(frames)
    clips = choose_frames(about["sampling"], total, num_frames, options.clips)
    wanted = sorted({place for clip in clips for place in clip})
    pictures = read_frames(options.video, wanted) if frames is None else {place: frames[place] for place in wanted}
    pixels = {place: prepare(picture, about) for place, picture in pictures.items()}

    # one clip at a time works for every exported batch size
    scores = [
        session.run(["scores"], {"clip": np.stack([pixels[place] for place in clip])[None]})[0][0] for clip in clips
    ]
    mean = np.mean(scores, axis=0, dtype=np.float64)
    best = np.argsort(-mean)[: options.top_k]
    found = [{"label": about["class_names"][i], "score": float(mean[i])} for i in best]
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for entry in found:
            print(f"{100 * entry['score']:5.1f} %  {entry['label']}")


def choose_frames(sampling, total, num_frames, num_clips):
    """Which frames each clip looks at: integer arithmetic over the number of frames."""
    if sampling == "segment":
        last = total - 1
        starts = [int(round_half_even(i * last, num_frames)) for i in range(num_frames)]
        offsets = [last * (clip + 1) // (num_frames * (num_clips + 1)) for clip in range(num_clips)]
        return [[start + offset for start in starts] for offset in offsets]
    if sampling == "uniform":
        gaps = max(1, num_clips - 1)
        starts = [clip * (total - num_frames) // (num_frames * gaps) for clip in range(num_clips)]
        return [
            [towards_zero(start * num_frames + i * total, num_frames) % total for i in range(num_frames)]
            for start in starts
        ]
    # dense: windows of 128 frames
    room, stride = max(0, total - 128), max(1, 128 // num_frames)
    starts = [room // 2] if num_clips == 1 else [clip * (room // (num_clips - 1)) for clip in range(num_clips)]
    return [[(start + i * stride) % total for i in range(num_frames)] for start in starts]


def prepare(picture, about):
    """A picture of any size, uint8 (height, width, 3), as the model wants it: float32 (3, height, width)."""
    crop_height, crop_width = about["image_size"]
    height, width = resized_size(picture.shape[:2], (crop_height, crop_width), about["resize"])
    resized = resize(picture, height, width, about["interpolation"])
    top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
    cropped = resized[top : top + crop_height, left : left + crop_width].astype(np.float32) / 255
    normalised = (cropped - np.float32(about["mean"])) / np.float32(about["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def resized_size(source, crop, mode):
    """The size of the whole picture before the middle is cut out."""
    height, width = source
    target_height, target_width = round_div(8 * crop[0], 7), round_div(8 * crop[1], 7)
    if mode == "squash":
        return target_height, round_div(10 * crop[1], 7)
    if target_height * width >= target_width * height:
        return target_height, target_height * width // height
    return target_width * height // width, target_width


def resize(picture, height, width, interpolation):
    """Antialiased, in the arithmetic of eight-bit pictures: rounded after the rows and again after the columns."""
    for axis, size in ((1, width), (0, height)):
        if picture.shape[axis] != size:
            weights, bits = resize_weights(picture.shape[axis], size, interpolation)
            # whole numbers below 2**53 are exact in float64, and its products are fast
            mixed = np.tensordot(weights, picture.astype(np.float64), axes=([1], [axis]))
            mixed = np.floor((np.moveaxis(mixed, 0, axis) + 2.0 ** (bits - 1)) / 2.0**bits)
            picture = np.clip(mixed, 0, 255).astype(np.uint8)
    return picture


def resize_weights(source, target, interpolation):
    """How much each source pixel counts for each target pixel, as whole multiples of 2**-bits."""
    scale = source / target
    if interpolation == "nearest":
        weights = np.zeros((target, source))
        weights[np.arange(target), np.minimum((np.arange(target) * scale).astype(int), source - 1)] = 1.0
        return weights, 0
    reach = {"bilinear": 1.0, "bicubic": 2.0}[interpolation]
    stretch = max(1.0, scale)
    weights = np.zeros((target, source))
    for i in range(target):
        centre = scale * (i + 0.5)
        first = max(0, int(centre - reach * stretch + 0.5))
        behind = min(source, int(centre + reach * stretch + 0.5))
        row = kernel((np.arange(first, behind) - centre + 0.5) / stretch, interpolation)
        weights[i, first:behind] = row / row.sum()
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    scaled = weights * (1 << bits)
    return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)), bits


def kernel(x, interpolation):
    """The triangle, or the cubic with a = -0.5."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(0.0, 1 - x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def shown_frames(path):
    """The frames of a video in the order in which they are shown."""
    import av  # PyAV

    with av.open(path) as container:
        yield from container.decode(video=0)


def count_frames(path):
    """How many frames there are: headers cannot be trusted, so they are decoded."""
    return sum(1 for _ in shown_frames(path))


def read_frames(path, wanted):
    """These frames, by number, as uint8 (height, width, 3), upright."""
    from av.video.reformatter import ColorRange, VideoReformatter

    convert = VideoReformatter()
    missing, pictures = set(wanted), {}
    for number, frame in enumerate(shown_frames(path)):
        if number in missing:
            # bilinear, full chroma: the training program's conversion
            frame_rgb = convert.reformat(
                frame,
                format="rgb24",
                interpolation=0x0002 | 0x2000,
                src_color_range=frame.color_range,
                dst_color_range=ColorRange.JPEG,
            )
            picture = frame_rgb.to_ndarray()
            pictures[number] = np.rot90(picture, round(frame.rotation / 90) % 4)
            missing.discard(number)
            if not missing:
                break
    return pictures


def round_div(numerator, denominator):
    """To the nearest whole number, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)


def round_half_even(numerator, denominator):
    """To the nearest whole number, halves to the even one."""
    quotient, remainder = divmod(numerator, denominator)
    up = 2 * remainder > denominator or (2 * remainder == denominator and quotient % 2 == 1)
    return quotient + up


def towards_zero(numerator, denominator):
    """Division without its remainder."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


if __name__ == "__main__":
    main()
