"""The starter model: what comes with the package, where it is the default, and that it hides nothing of a user's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from aelm import checkpoint, load_embedder, load_model
from aelm.checkpoint import STARTER, STARTER_FILE
from aelm.embed import task as embed
from aelm.evaluate import task as evaluate
from aelm.explain import task as explain
from aelm.search import task as search
from tests.pictures_on_disk import person, save_model, write_people

FAST = ["device=cpu", "workers=0", "progress=false"]


@pytest.fixture
def crops(tmp_path, monkeypatch):
    """Nine people under three cameras; commands run beside them."""
    monkeypatch.chdir(tmp_path)
    return write_people(tmp_path / "crops", 9)


def test_it_is_small_and_holds_tensors_and_words_alone():
    assert STARTER_FILE.stat().st_size < 8e6
    content = checkpoint.read_checkpoint(STARTER)  # nothing in it is executed
    tensors = [value for value in content["state_dict"].values() if value.is_floating_point()]
    assert {value.dtype for value in tensors} == {torch.float16}
    assert all(torch.isfinite(value).all() for value in tensors)
    assert (content["aelm"]["labels"], content["aelm"]["config"]) == ([], {})


def test_python_takes_it_where_nothing_is_given():
    model = load_embedder()
    images = torch.from_numpy(np.stack([person(i, 128, 64) for i in range(4)])).permute(0, 3, 1, 2)
    found = model.embed(images)
    assert found.shape == (4, model.dim)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-5)
    assert model.sha256 == load_embedder(STARTER_FILE).sha256
    assert torch.allclose(load_model(STARTER).embed(images), found, atol=1e-6)


def test_commands_take_it_where_nothing_is_given(composed, crops, tmp_path, caplog):
    caplog.set_level("INFO")
    embed.run(composed("embed", "images=crops", "output=out", *FAST))
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["model"]["name"] == STARTER_FILE.name
    assert caplog.text.count("Using `starter`, the built-in small model") == 1
    by_embeddings = search.run(composed("search", f"query={crops[0]}", "gallery=out", *FAST))
    by_pictures = search.run(composed("search", f"query={crops[0]}", "gallery=crops", *FAST))
    scores = [
        [(Path(hit.path).name, round(hit.score, 5)) for hit in found[0].hits] for found in (by_embeddings, by_pictures)
    ]
    assert scores[0] == scores[1]
    explain.run(composed("explain", "images=crops", "output=maps", "rows=9"))
    explain.run(composed("explain", f"pair=[{crops[0]},{crops[1]}]", "output=pair.png"))
    assert (tmp_path / "maps" / "page_0001.png").is_file()
    assert (tmp_path / "pair.png").is_file()


def test_evaluate_takes_it_and_needs_to_know_on_what(composed, crops, tmp_path):
    with pytest.raises(ValueError, match="starter does not say what to test on: choose it"):
        evaluate.run(composed("evaluate"))
    data = ["dataset=folder", f"data_dir={tmp_path}/crops", "figures=false", "bootstrap=0", "dataset.workers=0"]
    for i in range(3):  # everybody once more, under the next camera
        shutil.copy(crops[i], tmp_path / "crops" / f"{i:04}_c{(i + 1) % 3 + 1}s1_9.jpg")
    scores = evaluate.run(composed("evaluate", *data, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"))
    assert scores["test/rank1"] == 1  # the same picture


def test_a_file_of_that_name_is_not_hidden_in_silence(crops, tmp_path, caplog):
    save_model(tmp_path / "starter")
    own = load_embedder(tmp_path / "starter").sha256
    caplog.clear()
    assert load_embedder("starter").sha256 == load_embedder(STARTER_FILE).sha256
    assert "give `./starter`" in caplog.text
    caplog.clear()
    assert load_embedder("./starter").sha256 == load_embedder(Path("starter")).sha256 == own
    assert caplog.text == ""


def test_a_misspelt_name_is_told_the_right_one():
    with pytest.raises(FileNotFoundError, match=r"no checkpoint startr; .*`starter` is aelm's own"):
        load_embedder("startr")


def test_embeddings_of_another_environment_still_find_it(composed, crops, tmp_path):
    embed.run(composed("embed", "images=crops", "output=out", *FAST))
    meta = tmp_path / "out" / "meta.json"
    told = json.loads(meta.read_text())
    told["model"]["checkpoint"] = f"/elsewhere/{STARTER_FILE.name}"
    meta.write_text(json.dumps(told))
    assert search.run(composed("search", f"query={crops[0]}", "gallery=out", *FAST))[0].hits
    told["model"]["sha256"] = "0" * 64  # of another version
    meta.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="their scores mean nothing"):
        search.run(composed("search", f"query={crops[0]}", "gallery=out", *FAST))
