"""Cost of cropping compared with decoding, and of the frame interface compared with the model.

    python benchmarks/video.py                # 1,000 frames of 1080p with 20 boxes each, and embedding 20 boxes a frame
    python benchmarks/video.py --frames 200
    python benchmarks/video.py --codec libx264 --folder /dev/shm     # H.264, by ffmpeg; crops written to memory

OpenCV writes the video as MPEG-4 part 2; cameras write H.264, which takes longer to decode. Where the crops are written
counts: creating a file costs as much as encoding a crop on some disks.

Decoding alone turns every frame of the video into an array. Both alternate in one process, so that other load on the
machine affects both; medians over the turns, of wall-clock and CPU time. The model is MobileNetV2 with aelm's default
heads at 256 x 128, untrained; "alone" runs it on 20 pictures in memory.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import torch

from aelm import FrameEmbedder, load_embedder
from aelm.checkpoint import KEY, build, describe
from aelm.crop.footage import Box, Choice, choose, open_footage
from aelm.crop.task import Camera, cut_out

HEIGHT, WIDTH, PEOPLE = 1080, 1920, 20
NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "backbone": {"_target_": "aelm.models.TimmBackbone", "name": "mobilenetv2_100", "pretrained": False},
    "coam": {"_target_": "aelm.models.CoAM", "_partial_": True},
    "aelm": {"_target_": "aelm.models.AELM", "_partial_": True},
}


def write_video(path: Path, frames: int) -> None:
    """Writes a video of moving rectangles before a still background with noise."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    generator = np.random.default_rng(0)
    place = cv2.resize(
        generator.integers(0, 256, (68, 120, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    grain = generator.integers(0, 12, (HEIGHT + 64, WIDTH + 64, 3), np.uint8)
    for frame in range(frames):
        top, left = generator.integers(0, 64, 2)
        picture = cv2.add(place, grain[top : top + HEIGHT, left : left + WIDTH])
        for box in moved(frame):
            corner = (int(box.left), int(box.top))
            cv2.rectangle(picture, corner, (corner[0] + 80, corner[1] + 220), (9 * box.track, 120, 200), -1)
        writer.write(picture)
    writer.release()


def moved(frame: int) -> list[Box]:
    """Twenty boxes of 80 to 118 x 200 to 276 pixels."""
    return [
        Box(frame + 1, t, (90 * t + 3 * frame) % 1750, 40 * t % 700, 80 + 2 * t, 200 + 4 * t, 1.0, 0)
        for t in range(PEOPLE)
    ]


def crops(frames: int, turns: int, codec: str | None, folder: str | None) -> None:
    """Prints the ratio of the times of cropping and decoding."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        video = Path(place, "video.mp4")
        write_video(video, frames)
        if codec is not None:
            source, video = video, Path(place, "encoded.mp4")
            subprocess.run(["ffmpeg", "-loglevel", "error", "-i", source, "-c:v", codec, video], check=True)
        boxes = [box for frame in range(frames) for box in moved(frame)]
        alone, cut = [], []
        for turn in range(turns):
            start = clocks()
            decoded = sum(picture is not None for _, picture in open_footage(video).frames(range(1, frames + 1)))
            middle = clocks()
            footage = open_footage(video)
            cuts, _ = choose(boxes, footage.size, footage.has, Choice())
            target = Path(place, f"crops{turn}")  # not deleted in between: ext4 then writes new files slowly
            target.mkdir()
            done = cut_out(Camera("cam", footage, boxes), cuts, target, progress=False)
            end = clocks()
            written = len(list(target.iterdir()))
            if (decoded, len(done), written) != (frames, frames, frames * PEOPLE):
                raise SystemExit(f"decoded {decoded} frames, cropped {len(done)}, wrote {written} crops")
            alone.append(middle - start)
            cut.append(end - middle)
    print(f"{frames} frames of {WIDTH} x {HEIGHT}, {codec or 'MPEG-4'}, {PEOPLE} boxes each, written to {place}")
    for kind, one, other in zip(("wall", "CPU"), np.median(alone, 0), np.median(cut, 0), strict=True):
        ratio = np.median([b / a for a, b in zip(alone, cut, strict=True)], 0)[0 if kind == "wall" else 1]
        print(f"{kind}: decoding {one:.1f} s, crops {other:.1f} s ({frames * PEOPLE / other:.0f}/s), ratio {ratio:.2f}")


def clocks() -> np.ndarray:
    """Wall-clock seconds, and processor seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def boxes_a_second(turns: int) -> None:
    """Prints the ratio of the speeds of the frame interface and the model alone."""
    network = build(NETWORK)(num_ids=100)
    sizes = {"height": 256, "width": 128, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
    content = {"state_dict": {f"network.{k}": v for k, v in network.state_dict().items()},
               KEY: describe(NETWORK, 100, sizes, ["x"] * 100)}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder, "model.ckpt"))
        embedder = load_embedder(Path(folder, "model.ckpt"))
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    boxes = np.array([(b.left, b.top, b.left + b.width, b.top + b.height) for b in moved(0)])
    ready, embed = (
        torch.randint(0, 256, (PEOPLE, 3, 256, 128), dtype=torch.uint8),
        FrameEmbedder(embedder, colour="bgr"),
    )
    alone, through = [], []
    for _ in range(turns + 2):
        start = time.perf_counter()
        embedder.embed(ready)
        middle = time.perf_counter()
        embed(frame, boxes)
        alone.append(middle - start)
        through.append(time.perf_counter() - middle)
    one, other = (PEOPLE / statistics.median(times[2:]) for times in (alone, through))
    print(f"{PEOPLE} boxes per frame: model alone {one:.0f} boxes/s, frame interface {other:.0f}, {other / one:.0%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--codec", help="encoder of ffmpeg, such as libx264; default: OpenCV's MPEG-4")
    parser.add_argument("--folder", help="where crops are written; default: the folder for temporary files")
    given = parser.parse_args()
    crops(given.frames, given.turns, given.codec, given.folder)
    boxes_a_second(10 * given.turns)
