"""Rows: what is wrong with data sets and pictures."""

import shutil

from tests.bad_inputs.world import Row, World


def pictures(**files):
    """Replaces crops by other files; the names are those of the suffixes."""

    def prepare(world: World):
        shutil.rmtree(world.root / "crops")
        (world.root / "crops").mkdir()
        for suffix, content in files.items():
            (world.root / "crops" / f"0001_c1.{suffix}").write_bytes(content)

    return prepare


def cut_off_people(world: World):
    """The synthetic people, all of whose pictures are cut off."""
    shutil.copytree(world.people, world.root / "people")
    for path in (world.root / "people").rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:200])


def huge():
    """A PNG of a few bytes that says that it is 30,000 x 30,000."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + bytes(4) + b"IEND"


SETS = [
    Row("a data set that is not among those given", "train", ["dataset.train=[markt]"],
        ["`train` names markt, found only synthetic"]),
    Row("a name where a list of names should be", "evaluate", ["dataset.test=duke"], ["test", "duke"]),
    Row("all identities held out", "train", ["dataset.val_fraction=0.99"], ["`val_fraction`=0.99", "Lower it"]),
    Row("more than all held out", "train", ["dataset.val_fraction=1.5"], ["fraction", "[0, 1)", "1.5"]),
    Row("synthetic people of unknown number", "train", ["dataset.benchmarks.synthetic.size=huge"],
        ["`size` must be one of tiny", "'huge'"]),
    Row("distractors that are not there", "evaluate", ["distractors={root}/none"], ["none", "no such folder"]),
]  # fmt: skip

PICTURES = [
    Row("cut-off pictures to train on", "train", ["data_dir={root}/people"],
        ["is cut off", ".jpg", "dataset.on_bad_image=skip"], cut_off_people, begins=True),
    Row("nothing to train on but cut-off pictures", "train", ["data_dir={root}/people", "dataset.on_bad_image=skip"],
        ["None of the", "pictures can be read"], cut_off_people, begins=True),
    Row("a cut-off picture to test on", "evaluate", ["data_dir={root}/people"],
        ["is cut off", "dataset.on_bad_image=skip"], cut_off_people),
    Row("nothing to test on but cut-off pictures", "evaluate", ["data_dir={root}/people", "dataset.on_bad_image=skip"],
        ["none could be read"], cut_off_people),
    Row("no pictures", "embed", [], ["`images`: no picture in the folder", "expected files that end in"], pictures()),
    Row("a picture that says it is huge", "explain", [], ["none of the 1", "30,000 x 30,000 pixels", "Make it smaller"],
        pictures(png=huge())),
    Row("a query that is not there", "search", ["query={root}/me.jpg"], ["`query`: nothing at", "me.jpg"]),
    Row("a query that is no picture", "search", ["query={root}/crops/notes.doc"], ["neither a picture", "nor a list"],
        lambda world: (world.root / "crops" / "notes.doc").write_text("notes")),
    Row("a list without paths", "embed", ["images={root}/list.csv"], ["expected a first line with the column path"],
        lambda world: (world.root / "list.csv").write_text("file\na.jpg\n")),
    Row("a picture of a pair that is not there", "explain", ["images=null", "pair=[{root}/a.jpg,{root}/b.jpg]"],
        ["Cannot read the picture", "a.jpg", "No such file"]),
]  # fmt: skip

ROWS = [*SETS, *PICTURES]
