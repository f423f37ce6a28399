"""Trained files of other projects through the commands: every layout as a file, in the outer forms that people have."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aelm.command.build import build_test_data
from aelm.command.cli import quoted
from aelm.data.decoding import decode, read_bytes
from aelm.data.transforms import recipe
from aelm.embed import task as embed
from aelm.embed.batches import embed_files
from aelm.embed.embedder import load_embedder
from aelm.embed.frame import FrameEmbedder
from aelm.evaluate import task as evaluate
from aelm.explain import task as explain
from aelm.export import task as export
from aelm.link import task as link
from aelm.search import task as search
from aelm.search.gallery import Gallery
from tests.models.other_files import SMALL, bot, lmbn, osnet, state
from tests.models.other_transformers import TRANSFORMERS
from tests.pictures_on_disk import person
from tests.pictures_on_disk import write as write_picture
from tests.tiny import write_checkpoint

SIZE = "size=[64,32]"


def wrapped(prefix="", **more):
    """As training code saves: tensors under ``state_dict``, beside an optimizer and a best score by numpy."""
    return lambda tensors: {"state_dict": {prefix + key: value for key, value in tensors.items()}, **more}


FILES = {
    "osnet.pth.tar": (osnet(0.25), wrapped("module.", epoch=3, rank1=np.float32(0.5), optimizer={"state": {}})),
    "osnet_ibn.bin": (osnet(kind="ibn"), lambda tensors: {f"_orig_mod.{key}": value for key, value in tensors.items()}),
    "osnet_ain.safetensors": (osnet(0.25, "ain"), dict),
    "boxmot.pt": (osnet(0.25), wrapped(model_name="osnet_x0_25", num_classes=11, preprocess="resize", model_kwargs={})),
    "lmbn.pt": (lmbn(), wrapped(model_name="lmbn_n", img_size=[384, 128])),
    "torchreid.pth": (SMALL["torchreid_resnet18"], dict),
    "fastreid.pth": (SMALL["fastreid_bot_r18"], lambda tensors: {"model": tensors, "iteration": 9}),
    "fastreid_sbs.pth": (SMALL["fastreid_sbs_r18_ibn"], lambda tensors: {"model": tensors}),
    "bot.pth": (SMALL["bot_r18"], dict),
    "agw.pth": (bot(18, power=True), dict),
}


def write(folder, name):
    shapes, outer = FILES[name]
    content = outer(state(shapes))
    if name.endswith(".safetensors"):
        save_file(content, folder / name)
    else:
        torch.save(content, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three people, each seen by two cameras: one is asked for, the other searched in."""
    root = tmp_path_factory.mktemp("world")
    for pid in range(3):
        for camid, side in ((1, "query"), (2, "gallery")):
            (root / side).mkdir(exist_ok=True)
            write_picture(root / side / f"{pid:04}_c{camid}.jpg", person(pid))
    return root


@pytest.fixture(scope="module")
def crops(world):
    return world / "gallery"


@pytest.mark.parametrize("name", FILES)
def test_every_layout_as_a_file_is_evaluated_embedded_and_explained(name, tmp_path, world, crops, composed, tested):
    path = write(tmp_path, name)
    options = ["dataset=folder", f"data_dir={world}", "dataset.workers=0", "bootstrap=0"]
    scores = tested(path, *options, SIZE)
    assert scores["test/mAP"] == 1, "the two pictures of a person are the same"
    given = [f"checkpoint={path}", SIZE, f"images={crops}", "device=cpu"]
    embed.run(composed("embed", *given, f"output={tmp_path}/out", "progress=false"))
    files = sorted(crops.iterdir())
    images = np.stack([recipe(64, 32).test(decode(read_bytes(str(file)), str(file))) for file in files])
    expected = load_embedder(path, size=(64, 32)).embed(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert np.allclose(np.load(tmp_path / "out" / "features.npy"), expected, atol=1e-5)
    drawn = explain.run(composed("explain", *given, f"output={tmp_path}/heat"))
    pair = f"pair=[{files[0]},{files[1]}]"
    drawn += explain.run(composed("explain", *given[:2], "device=cpu", pair, f"output={tmp_path}/pair.png"))
    assert len(drawn) == 2
    assert all(file.stat().st_size > 1000 for file in drawn)


@pytest.mark.parametrize("name", ["osnet.pth.tar", "lmbn.pt"])
def test_such_a_file_is_searched_with(name, tmp_path, crops, composed):
    path = write(tmp_path, name)
    given = [f"checkpoint={path}", SIZE]
    query = sorted(crops.iterdir())[0]
    page = tmp_path / "page.html"
    options = [f"query={query}", f"gallery={crops}", f"output={page}", "device=cpu", "progress=false", "top_k=2"]
    found = search.run(composed("search", *given, *options))
    assert len(found[0].hits) == 2
    assert "data-heat-a" in page.read_text()


@pytest.mark.parametrize(
    ("layout", "pools", "keys"),
    [
        ("clipreid_vit", False, ["camera=2"]),
        pytest.param("transreid_deit_small", False, ["camera=2"], marks=pytest.mark.slow),
        pytest.param("solider_swin_tiny", True, [], marks=pytest.mark.slow),
    ],
)
def test_transformers_as_files_are_evaluated_embedded_exported_and_explained_if_they_pool(
    layout, pools, keys, tmp_path, world, crops, composed, tested
):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "w.pth"
    torch.save({f"module.{key}": value for key, value in state(TRANSFORMERS[layout]).items()}, path)
    scores = tested(path, "dataset=folder", f"data_dir={world}", "dataset.workers=0", "bootstrap=0", SIZE, *keys)
    assert scores["test/mAP"] == 1, "the two pictures of a person are the same"
    given = [f"checkpoint={path}", SIZE, *keys]
    images = [f"images={crops}", "device=cpu"]
    embed.run(composed("embed", *given, *images, f"output={tmp_path}/out", "progress=false"))
    features = np.load(tmp_path / "out" / "features.npy")
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    drawing = composed("explain", *given, *images, f"output={tmp_path}/heat")
    if pools:
        assert explain.run(drawing)[0].stat().st_size > 1000
        return
    with pytest.raises(ValueError, match="maps"):
        explain.run(drawing)
    written = export.run(composed("export", *given, f"output={tmp_path}/w.onnx"))
    assert written.difference < 1e-5
    files = sorted(crops.iterdir())
    pictures = np.stack([recipe(64, 32).test(decode(read_bytes(str(file)), str(file))) for file in files])
    again = load_embedder(tmp_path / "w.onnx").embed(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
    assert np.allclose(features, again, atol=1e-4)


def test_what_is_told_beside_a_file_makes_another_model(tmp_path):
    path = write(tmp_path, "osnet.pth.tar")
    plain, sized = load_embedder(path), load_embedder(path, size=(64, 32))
    assert (plain.height, plain.width, sized.height, sized.width) == (256, 128, 64, 32)
    assert plain.sha256 != sized.sha256


@pytest.mark.slow
def test_a_file_of_boxmot_says_that_pictures_keep_their_shape(tmp_path, world, composed, tested, monkeypatch):
    """Everywhere: in embedding, evaluation, frames, and on in the exported file and its sidecar."""
    pytest.importorskip("onnxruntime")
    content = wrapped(model_name="lmbn_n", preprocess="resize_pad", img_size=[64, 32])(state(lmbn()))
    torch.save(content, tmp_path / "w.pt")
    torch.save(content | {"preprocess": "resize"}, tmp_path / "plain.pt")
    wide = cv2.resize(person(0), (90, 60))
    (tmp_path / "wide").mkdir()
    write_picture(tmp_path / "wide" / "a.png", wide[:, :, ::-1])
    # 90 x 60 in 64 x 32 is 32 x 21, with 21 rows above and 22 below.
    by_hand = np.full((64, 32, 3), (124, 116, 104), np.uint8)
    by_hand[21:42] = cv2.resize(wide, (32, 21), interpolation=cv2.INTER_LINEAR)
    embedder, plain = load_embedder(tmp_path / "w.pt"), load_embedder(tmp_path / "plain.pt")
    expected = plain.embed(torch.from_numpy(by_hand).permute(2, 0, 1)[None].contiguous()).numpy()
    written = export.run(composed("export", f"checkpoint={tmp_path}/w.pt", f"output={tmp_path}/w.onnx"))
    assert written.difference < 1e-5
    told = json.loads(written.sidecar.read_text())
    assert (told["preprocess"], told["img_size"], told["output_shape"]) == ("resize_pad", [64, 32], ["N", 3584])
    for name in ("w.pt", "w.onnx"):
        given = [f"checkpoint={tmp_path / name}", f"images={tmp_path}/wide", f"output={tmp_path}/out", "progress=false"]
        embed.run(composed("embed", *given, "device=cpu", "pattern=null"))
        assert np.allclose(np.load(tmp_path / "out" / "features.npy"), expected, atol=1e-5)
    for colour, frame in (("rgb", wide), ("bgr", wide[:, :, ::-1])):
        found = FrameEmbedder(embedder, colour=colour)(np.ascontiguousarray(frame), [[0, 0, 90, 60]]).features
        assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(embed_files(plain, [tmp_path / "wide" / "a.png"]), expected, atol=1e-2)
    seen = []
    monkeypatch.setattr(evaluate, "build_test_data", lambda *given: seen.append(build_test_data(*given)) or seen[-1])
    tested(tmp_path / "w.pt", "dataset=folder", f"data_dir={world}", "dataset.workers=0", "bootstrap=0")
    assert seen[0].transform.preprocess == "resize_pad"


def test_the_camera_is_a_key_of_each_command(tmp_path, crops, composed, caplog):
    path = tmp_path / "w.pth"
    torch.save(state(TRANSFORMERS["clipreid_vit"]), path)
    (tmp_path / "w.pth.json").write_text('{"camera": 1}')
    given = [f"checkpoint={path}", SIZE, "camera=3"]
    embedded = ["device=cpu", "progress=false", f"images={crops}"]
    embed.run(composed("embed", *given, *embedded, f"output={tmp_path}/out"))
    files = sorted(crops.iterdir())
    pictures = np.stack([recipe(64, 32).test(decode(read_bytes(str(file)), str(file))) for file in files])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    one, three = load_embedder(path, size=(64, 32)), load_embedder(path, size=(64, 32), camera=3)
    assert one.sha256 != three.sha256
    assert not torch.allclose(one.embed(images), three.embed(images), atol=1e-4)
    assert np.allclose(np.load(tmp_path / "out" / "features.npy"), three.embed(images), atol=1e-5)
    # Made for the search, or made before: then the gallery says size and camera itself.
    for gallery, told in ((crops, given), (tmp_path / "out", given), (tmp_path / "out", [])):
        options = [f"query={files[0]}", f"gallery={gallery}", "device=cpu", "progress=false"]
        assert len(search.run(composed("search", *told, *options))[0].hits) == 2
    with pytest.raises(ValueError, match="their scores mean nothing"):
        search.run(composed("search", "camera=2", *options))
    with pytest.raises(ValueError, match="camera"):
        load_embedder(path, size=(64, 32), camera=6)
    assert "which one took the pictures is not told" not in caplog.text


@pytest.mark.parametrize("size", ["[128,64]", "null"])
def test_links_and_searches_load_the_file_as_it_embedded(size, tmp_path, composed):
    """Without keys of their own: the embeddings say which size was given, if one was."""
    path = write(tmp_path, "osnet.pth.tar")
    rows = ["path,track,camid,time,pid"]
    for camid in (1, 2):
        for pid in range(3):
            write_picture(tmp_path / "crops" / f"{camid}_{pid}.jpg", person(pid))
            rows.append(f"{camid}_{pid}.jpg,{pid},{camid},{100 * camid + pid},{pid}")
    (tmp_path / "crops" / "crops.csv").write_text("\n".join(rows))
    options = [f"checkpoint={path}", f"size={size}", f"images={tmp_path}/crops", f"output={tmp_path}/tracks"]
    embed.run(composed("embed", *options, "device=cpu", "progress=false"))
    paths = [f"embeddings={tmp_path}/tracks", f"output={tmp_path}/people", "device=cpu", "threshold=0.9999"]
    people = link.run(composed("link", *paths))
    assert len(set(people.person)) == 3
    assert "data-heat-a=" in (tmp_path / "people" / "people.html").read_text().partition("<script>")[0]
    options = [f"query={tmp_path}/crops/1_0.jpg", f"gallery={tmp_path}/tracks", f"output={tmp_path}/found.html"]
    found = search.run(composed("search", *options, "device=cpu", "progress=false"))
    assert found[0].hits[0].path.endswith("2_0.jpg")


def test_a_gallery_of_python_says_the_size_too(tmp_path, crops, composed):
    path = write(tmp_path, "osnet.pth.tar")
    embedder, files = load_embedder(path, size=(64, 32)), sorted(map(str, crops.iterdir()))
    gallery = Gallery(embedder)
    gallery.add(embed_files(embedder, files), files)
    gallery.save(tmp_path / "saved")
    options = [f"query={files[0]}", f"gallery={tmp_path}/saved", "device=cpu", "progress=false"]
    assert len(search.run(composed("search", f"checkpoint={path}", *options))[0].hits) == 2


def test_a_file_that_says_its_size_or_has_no_cameras_takes_no_other(tmp_path):
    write_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"`size`: best\.ckpt says itself how large pictures are"):
        load_embedder(tmp_path / "best.ckpt", size=(64, 32))
    for path in (tmp_path / "best.ckpt", write(tmp_path, "osnet.pth.tar")):
        with pytest.raises(ValueError, match=rf"`camera`: {path.name} has no embeddings of cameras"):
            load_embedder(path, camera=0)


def test_a_training_starts_from_backbone_and_neck_and_needs_the_file_no_more(tmp_path, trained):
    """With hardly a step: then the weights are still the file's, whatever the statistics of batch norms are."""
    (tmp_path / "it's, (1)").mkdir()
    path = write(tmp_path / "it's, (1)", "osnet.pth.tar")
    tensors = torch.load(path, weights_only=False)["state_dict"]
    weights = [*quoted([f"model.backbone.weights={path}", f"neck_weights={path}"]), "model.aelm.embed_dim=512"]
    options = ["model.backbone.name=osnet_x0_25", *weights, "optimizer.lr=1e-9", "new_lr_factor=1", "figures=false"]
    run, _ = trained(*options, "trainer.max_epochs=1")
    best = load_embedder(run).network
    for head in (best.heads[-1].a, best.heads[-1].b):
        assert torch.allclose(head.embed[0].weight[:, :, 0, 0], tensors["module.fc.0.weight"], atol=1e-6)
        assert torch.allclose(head.embed[1].weight, tensors["module.fc.1.weight"], atol=1e-6)
    assert torch.allclose(best.backbone.network["conv5"].conv.weight, tensors["module.conv5.conv.weight"], atol=1e-6)
    without = {key: value for key, value in tensors.items() if not key.startswith("module.fc.")}
    torch.save({"state_dict": without}, path)
    trained(*options, "trainer.max_epochs=1", "resume=auto")  # a second start from the neck would be an error now
    path.unlink()
    again = load_embedder(run).network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in best.state_dict().items())
