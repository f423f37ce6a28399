"""Tracks compared with single pictures, on synthetic videos: mAP, and accuracy of the links.

    python benchmarks/tracks.py best.ckpt            # three worlds of 24 people and three cameras

For each seed the videos are drawn, cropped (12 pictures per track), embedded and scored: each picture against all
pictures, the best picture of each track against those of all others, and tracks against tracks; always from other
cameras. Links use the threshold recommended by the tracks of the previous world for a false-accept rate of one in a
hundred. They are compared with a single threshold on the best pictures: the same one, and the best one in hindsight.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from aelm.embed.folder import read_embeddings
from aelm.embed.tracks import PICTURES
from aelm.link.people import Settings, link, link_scores, single_scores
from aelm.retrieval import rank_metrics, verification

FAR = 1e-2


def command(name: str, *arguments: str) -> None:
    """Runs a command of aelm, quietly."""
    subprocess.run([sys.executable, "-m", f"aelm.{name}", *arguments], check=True, stdout=subprocess.DEVNULL)


def world(home: Path, seed: int, people: int, checkpoint: str) -> Path:
    """Draws, crops and embeds the world of one seed; returns the folder of tracks."""
    videos, cameras = home / "videos", ("cam1", "cam2", "cam3")
    command("data.synthetic.videos", str(videos), "--seed", str(seed), "--people", str(people))
    films, boxes = ([f"{videos}/{camera}.{kind}" for camera in cameras] for kind in ("mp4", "txt"))
    named = [f"video=[{','.join(films)}]", f"boxes=[{','.join(boxes)}]", f"truth={videos}/truth.csv"]
    command("crop", *named, "per_track=12", f"output={home}/crops", "progress=false")
    command("embed", f"checkpoint={checkpoint}", f"images={home}/crops", f"output={home}/tracks", "progress=false")
    return home / "tracks"


def measure(folder: Path, threshold: float | None) -> tuple[dict[str, float], float]:
    """Every score of one world, and the threshold that it recommends for the next one."""
    tracks, single = read_embeddings(folder), read_embeddings(folder / PICTURES)
    place = {item.path.rpartition("/")[2]: row for row, item in enumerate(single.items)}
    best = [place[item.path.rpartition("/")[2]] for item in tracks.items]
    cameras = {item.camid: number for number, item in enumerate(tracks.items)}
    told = {}
    for name, features, items in (
        ("every picture", single.features, single.items),
        ("best picture", single.features[best], tracks.items),
        ("track", tracks.features, tracks.items),
    ):
        pids, camids = [int(item.pid) for item in items], [cameras[item.camid] for item in items]
        labels = pids, pids, camids, camids
        features = np.array(features)
        told[f"mAP: {name}"] = rank_metrics(features, features, *labels).mAP
    recommended = float(verification(features, features, *labels, far=[FAR]).threshold[0])
    if threshold is not None:
        texts = [item.pid for item in tracks.items]
        found = link(features, tracks.items, Settings(threshold))
        told["F1: links"] = link_scores(found.person, texts)["pairwise_f1"]
        singles = single_scores(np.array(single.features[best]), texts, threshold)
        told["F1: best pictures, the same threshold"] = singles["pairwise_f1"]
        told["F1: best pictures, the best threshold"] = singles["best_pairwise_f1"]
    return told, recommended


def main() -> None:
    """Measures each world and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=24)
    options = parser.parse_args()
    rows, threshold = [], None
    with tempfile.TemporaryDirectory(prefix="aelm-tracks-") as name:
        for seed in range(options.seeds + 1):  # the first one only recommends a threshold
            folder = world(Path(name) / str(seed), 100 + seed, options.people, options.checkpoint)
            told, recommended = measure(folder, threshold)
            if threshold is not None:
                rows.append(told)
            threshold = recommended
    print(f"{options.checkpoint}, {options.seeds} worlds of {options.people} people, per cent")
    print("| | mean | worlds |\n|---|---|---|")
    for key in rows[0]:
        values = [100 * row[key] for row in rows]
        print(f"| {key} | {np.mean(values):.1f} | {', '.join(f'{value:.1f}' for value in values)} |")


if __name__ == "__main__":
    main()
