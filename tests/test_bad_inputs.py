"""Every bad input of the table is one line that says what to do, before the work, and leaves everything as it was."""

import gc

import pytest

from aelm.command import cli, schema
from aelm.embed import task as embed
from aelm.evaluate import task as evaluate
from aelm.explain import task as explain
from aelm.export import task as export
from aelm.search import task as search
from aelm.train import task as train
from tests.bad_inputs import checkpoints, configuration, data, devices
from tests.bad_inputs.world import Row, World, contents
from tests.pictures_on_disk import save_model, write_people

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "embed": embed,
    "search": search,
    "explain": explain,
    "export": export,
}
ROWS = [*configuration.ROWS, *data.ROWS, *checkpoints.ROWS, *devices.ROWS]


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Collecting garbage behind each row takes longer than the row if it looks at all that is loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model.ckpt")


@pytest.fixture
def world(tmp_path, people, model):
    """Pictures, and what earlier commands left where the rows write to."""
    root = tmp_path / "world"
    write_people(str(root / "crops"), 3)
    for folder, names in {
        "scores": ["metrics.json", "queries_test.csv", "cameras_test.csv", "bad.csv"],
        "embedded": ["features.npy", "items.csv", "meta.json", "bad.csv"],
        "maps": ["page_0001.png"],
        ".": ["found.json", "model.onnx", "model.onnx.metadata.json"],
    }.items():
        for name in names:
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name).write_text(f"an earlier {name}")
    return World(root, people, model)


def failure(row: Row, world: World, composed) -> Exception:
    """The error that a row ends with."""
    try:
        config = composed(row.command, *row.arguments(world))
        schema.check_keys(config)
        schema.check_given(config, row.command)
        COMMANDS[row.command].run(config)
    except Exception as error:
        return error
    return pytest.fail("nothing was wrong")


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.command}: {row.wrong}" for row in ROWS])
def test_a_bad_input_is_one_line_and_nothing_is_touched(row, world, composed, monkeypatch, capsys):
    row.prepare(world)
    if not row.begins:
        monkeypatch.setattr(train.pl.Trainer, "fit", lambda *_, **__: pytest.fail("training began"))
    before, others = contents(world.root), contents(world.people)
    error = failure(row, world, composed)
    assert cli.is_expected(error), repr(error)
    line = cli.error_line(error)
    assert "\n" not in line
    for words in world.filled(row.words):
        assert words in line
    assert "the bomb went off" not in capsys.readouterr().out
    del error
    gc.collect()  # files that are memory-mapped
    assert contents(world.root) == before
    assert contents(world.people) == others
    assert row.begins or not (world.root.parent / "run").exists()
