"""Heat maps of pictures and pairs, against the network's own numbers."""

import os
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aelm.command.cli import quoted
from aelm.command.schema import check_keys
from aelm.data.sources import Item
from aelm.embed.embedder import load_embedder
from aelm.explain import task as explain
from aelm.models.similarity import similarity_maps
from aelm.report import heatmap_rows
from tests.embed.test_embedder import write_onnx
from tests.tiny import description, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "best.ckpt"
    write_checkpoint(path)
    return path


@pytest.fixture
def crops(tmp_path):
    """Five pictures with identities 0..4, one of them unreadable, and one of an identity that is not trained."""
    folder = tmp_path / "crops"
    (folder / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    for pid in (0, 1, 3, 9):
        image = cv2.resize(random.integers(0, 256, (4, 2, 3), dtype=np.uint8), (48, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / ("deeper" if pid == 3 else "") / f"000{pid}_c1s1_000001_00.png"), image)
    (folder / "0002_c1s1_000001_00.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def run(composed, checkpoint, tmp_path):
    def explained(*overrides):
        return explain.run(composed("explain", f"checkpoint={checkpoint}", f"output={tmp_path}/out", *overrides))

    return explained


def images(count=3):
    random = torch.Generator().manual_seed(1)
    coarse = torch.nn.functional.interpolate(torch.rand(count, 3, 4, 2, generator=random), (64, 32), mode="bilinear")
    return (255 * coarse).to(torch.uint8)


def test_the_panels_are_what_the_network_says(checkpoint):
    network = load_embedder(checkpoint).network
    pictures = images()
    outputs = network.explain(pictures)
    rows = heatmap_rows.model_rows(network, pictures, [f"x:{i}" for i in range(5)], captions=["a", "b", "c"])
    for i, row in enumerate(rows):
        titles = [panel.title for panel in row.panels]
        views = ["A, stage {}", "erased, {}", "B sees, {}", "B, stage {}"]
        assert titles == [view.format(s) for s in (1, 2) for view in views]
        for s in (0, 1):
            a, erased, seen, b = row.panels[4 * s : 4 * s + 4]
            np.testing.assert_array_equal(a.heatmap, outputs[s][0].heatmap[i])
            np.testing.assert_array_equal(b.heatmap, outputs[s][1].heatmap[i])
            np.testing.assert_array_equal(erased.mask, outputs[s][1].mask[i])
            np.testing.assert_array_equal(seen.mask, erased.mask)
            assert seen.heatmap is None
            assert erased.mask.any()
            assert erased.mask.reshape(-1)[a.heatmap.argmax()]  # the hottest place is erased
        np.testing.assert_array_equal(row.image, pictures[i].permute(1, 2, 0))
        best = int(outputs[0][0].logits[i].argmax())
        assert row.caption.startswith(f"{'abc'[i]}: like x:{best} (")


def test_labels_choose_whose_map_is_shown(checkpoint):
    network = load_embedder(checkpoint).network
    pictures = images()
    free = network.explain(pictures)
    others = (free[0][0].logits.argmax(1) + 1) % 5  # whom the model does not take them for
    first, last = int(others[0]), int(others[2])
    rows = heatmap_rows.model_rows(network, pictures, [f"x:{i}" for i in range(5)], [first, None, last])
    own = network.explain(pictures, others)
    for i, outputs in enumerate((own, free, own)):
        np.testing.assert_allclose(rows[i].panels[0].heatmap, outputs[0][0].heatmap[i], rtol=1e-4, atol=1e-6)
    assert [rows[0].caption, rows[2].caption] == [f"as x:{first}", f"as x:{last}"]
    assert not np.allclose(own[0][0].heatmap[0], free[0][0].heatmap[0])
    with pytest.raises(ValueError, match="got 3 pictures, 2 labels and 3 captions"):
        heatmap_rows.model_rows(network, pictures, ["x"], [1, 2])


def test_explain_leaves_the_network_as_it_was(checkpoint):
    network = load_embedder(checkpoint).network
    network.train()
    network.backbone.eval()  # as a frozen one is
    before = {name: value.clone() for name, value in network.state_dict().items()}
    outputs = network.explain(images())
    assert network.training
    assert not network.backbone.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for given, expected in zip(outputs, network.eval().explain(images=images()), strict=True):
        assert given[0].heatmap.shape == expected[0].heatmap.shape
    assert not outputs[0][0].heatmap.requires_grad


@pytest.mark.parametrize(
    ("aelm", "titles"),
    [
        ("IFCN", ["A, stage 1", "A, stage 2"]),
        ("TwoHeads", ["A, stage 1", "B, stage 1", "A, stage 2", "B, stage 2"]),
    ],
)
def test_networks_that_erase_nothing(tmp_path, aelm, titles):
    write_checkpoint(tmp_path / "x.ckpt", description(aelm))
    network = load_embedder(tmp_path / "x.ckpt").network
    rows = heatmap_rows.model_rows(network, images(), [f"x:{i}" for i in range(5)])
    assert all([panel.title for panel in row.panels] == titles for row in rows)


def test_a_pair_is_split_into_its_score(checkpoint):
    embedder = load_embedder(checkpoint)
    a, b = images(2)
    maps, rows = heatmap_rows.paired(embedder.network, a, b, ("a", "b"))
    score = float(embedder.embed(a[None])[0] @ embedder.embed(b[None])[0])
    assert float(maps.score[0]) == pytest.approx(score, abs=1e-5)
    for row in rows:
        assert [panel.title for panel in row.panels] == ["all", "A, stage 2", "B, stage 2"]
        assert row.panels[0].heatmap.sum() == pytest.approx(score, abs=1e-5)
        assert sum(panel.heatmap.sum() for panel in row.panels[1:]) == pytest.approx(score, abs=1e-5)
    assert sum(heatmap_rows.shares(maps).values()) == pytest.approx(score, abs=1e-5)
    swapped = similarity_maps(embedder.network, b[None], a[None])
    np.testing.assert_allclose(rows[1].panels[1].heatmap, swapped.on_a[0][0][0], atol=1e-6)


def test_a_folder_becomes_pages_and_bad_pictures_are_told(run, crops, tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = run(f"images={crops}", "rows=3", "labels=x")
    assert [path.name for path in paths] == ["page_0001.png", "page_0002.png"]
    assert sorted(os.listdir(tmp_path / "out")) == ["page_0001.png", "page_0002.png"]
    assert all(cv2.imread(str(path)).std() > 5 for path in paths)
    said = capsys.readouterr().out
    assert "1 of 5 pictures could not be read" in said
    assert "0002_c1s1_000001_00.jpg" in said
    assert "4 pictures in 2 files" in said
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_file_for_each_picture(run, crops):
    names = [path.name for path in run(f"images={crops}", "rows=1", "pattern=null")]
    assert names == [f"{i:06d}_{stem}_c1s1_000001_00.png" for i, stem in enumerate(("0000", "0001", "0009", "0003"), 1)]


def test_only_identities_of_the_training_have_a_label(crops):
    items = explain.find_items(crops)
    labels = [f"x:{i}" for i in range(4)] + ["y:9"]
    assert explain.known_labels(items, labels, None) == [None] * 5
    assert explain.known_labels(items, labels, "x") == [0, 1, 2, None, 3]
    assert explain.known_labels(items, labels, "y") == [None, None, None, 4, None]
    with pytest.raises(ValueError, match="`labels` must be one of the data sets of the training, x, y, got 'z'"):
        explain.known_labels(items, labels, "z")


def test_a_pair_is_drawn(run, crops, tmp_path, capsys):
    pair = f"pair=[{crops}/0000_c1s1_000001_00.png,{crops}/deeper/0003_c1s1_000001_00.png]"
    (path,) = run(pair)
    assert path == tmp_path / "out" / "pair.png"
    said = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"stage \d ([+-][\d.]+)", said)]
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(float(said.split()[1]), abs=0.003)
    (other,) = run(pair, f"output={tmp_path}/two.png")
    assert cv2.imread(str(other)).std() > 5


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        ([], ValueError, "give either `images` or `pair`"),
        (["images=x", "pair=[a.jpg,b.jpg]"], ValueError, "give either `images` or `pair`"),
        (["pair=[a.jpg]"], ValueError, "`pair` must name two pictures, got 1: a.jpg"),
        (["pair=[a.jpg,b.jpg]"], ValueError, "Cannot read the picture 'a.jpg'"),
        (["images=nowhere"], FileNotFoundError, "`images`: nothing at 'nowhere'"),
        (["images=x", "rows=0"], ValueError, "`rows` must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(run, overrides, kind, message):
    with pytest.raises(kind, match=message):
        run(*overrides)


def test_pictures_none_of_which_can_be_read(run, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 pictures could be read"):
        run(f"images={tmp_path}/x.jpg")


def test_a_model_that_keeps_its_maps_to_itself_is_named(composed, tmp_path):
    path = write_onnx(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx gives only embeddings, no feature maps"):
        explain.run(composed("explain", f"checkpoint={path}", "images=x", "output=y"))


DOCUMENT = (Path(__file__).parents[1] / "docs" / "explain.md").read_text(encoding="utf-8")


def test_the_commands_of_the_document_compose(composed):
    commands = re.findall(r"^python -m aelm\.explain (.*)$", DOCUMENT, re.MULTILINE)
    assert len(commands) >= 3
    for arguments in commands:
        check_keys(composed("explain", *quoted(shlex.split(arguments))))


def test_the_lines_of_the_document_run(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names = {"size": (64, 32)}
    exec(compile(block, "docs/explain.md", "exec"), names)
    maps, images = names["maps"], names["images"]
    scores = names["model"].embed(images[:1]) @ names["model"].embed(images[1:]).T
    torch.testing.assert_close(maps.score[None], scores)
    assert "torch.Size([4, 4, 2])" in capsys.readouterr().out


def test_maps_are_computed_without_tf32(run, crops, monkeypatch):
    found, draw = [], heatmap_rows.model_rows

    def noted(*arguments):
        found.append(torch.backends.cudnn.conv.fp32_precision)
        return draw(*arguments)

    monkeypatch.setattr(heatmap_rows, "model_rows", noted)
    before = torch.backends.cudnn.conv.fp32_precision
    run(f"images={crops}", "device=cpu")
    assert found == ["ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_people_by_name_are_found_and_strangers_are_counted(caplog):
    labels = ["folder:alice", "folder:00:1a:2b", "folder:7"]
    items = [Item("a.jpg", "alice"), Item("b.jpg", "7")]
    assert explain.known_labels(items, labels, "folder") == [0, 2]
    assert explain.known_labels([Item("a.jpg", "00:1a:2b")], labels, "folder") == [1]
    assert not caplog.records
    assert explain.known_labels([*items, Item("c.jpg", "carol"), Item("d.jpg")], labels, "folder") == [0, 2, None, None]
    assert "`labels=folder`: 2 of 4 pictures show nobody of the training" in caplog.text
    assert "carol, no identity" in caplog.text
