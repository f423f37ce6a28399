import pytest
from omegaconf import OmegaConf

from aelm.report.runs import claim, differences


def config(**changes):
    return OmegaConf.create({"resume": None, "name": "x", "seed": 0, "model": {"aelm": {"threshold": 0.7}}, **changes})


def with_checkpoints(path, of):
    claim(path, of)
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "last.ckpt").write_bytes(b"precious")
    return path


def test_a_fresh_directory_gets_its_configuration(tmp_path):
    assert claim(tmp_path / "run", config()) is None
    assert OmegaConf.load(tmp_path / "run" / "config.yaml") == config()


def test_another_configuration_is_refused_and_nothing_is_lost(tmp_path):
    run = with_checkpoints(tmp_path, config())
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for resume in (None, "auto"):
        other = config(resume=resume, model={"aelm": {"threshold": 0.5}})
        with pytest.raises(FileExistsError, match=r"another configuration: model\.aelm\.threshold: 0\.7 -> 0\.5"):
            claim(run, other)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_the_same_configuration_goes_on_only_when_asked_to(tmp_path):
    run = with_checkpoints(tmp_path, config())
    with pytest.raises(FileExistsError, match="Go on with `resume=auto`"):
        claim(run, config())
    assert claim(run, config(resume="auto")) == run / "checkpoints" / "last.ckpt"


def test_differences_name_added_and_removed_keys():
    assert differences(config(a=1), config(b=[])) == ["a: 1 -> None", "b: None -> []"]
    assert differences(config(), config(resume="auto", name="y")) == []


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError, match=r"`run_dir`: .*run/checkpoints cannot be made, .*file is a file"):
        claim(tmp_path / "file" / "run", config())
