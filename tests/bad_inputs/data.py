"""Rows: what is wrong with data sets and pictures."""

import shutil

from tests.bad_inputs.world import Row, World
from tests.data import trees
from tests.pictures_on_disk import person, write

MARKET = ["dataset=market1501", "data_dir={root}/data"]
OWN = ["dataset=folder", "data_dir={root}/data"]


def market(spoil):
    """Market-1501 in small, spoiled."""

    def prepare(world: World):
        root = trees.market1501(world.root / "data" / "market1501")
        spoil(root)

    return prepare


def msmt17(world: World):
    """MSMT17 in small."""
    return trees.msmt17(world.root / "data" / "MSMT17_V1")


def own(*names, table=None):
    """One's own pictures by these names, and perhaps a table."""

    def prepare(world: World):
        for number, name in enumerate(names):
            write(world.root / "data" / name, person(number))
        if table is not None:
            (world.root / "data" / "table.csv").write_text(table)

    return prepare


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


TRAIN = ("train/1_c1_0.png", "train/1_c2_0.png", "train/2_c1_0.png", "train/2_c2_0.png")
TEST = ("query/3_c1_0.png", "gallery/3_c2_0.png")
TABULAR = "dataset.benchmarks.folder.csv=table.csv"
TABLE = "path,pid,camid,split\n"

SETS = [
    Row("no data directory", "train", ["dataset=market1501", "data_dir={root}/none"],
        ["market1501: expected a data directory, found no folder", "Set `data_dir=...` or $AELM_DATA"]),
    Row("a data directory without the data set", "train", MARKET,
        ["market1501", "bounding_box_train", "{root}/data", "Market-1502", "Set `data_dir=...`"],
        lambda world: (world.root / "data" / "Market-1502").mkdir(parents=True)),
    Row("a data set without one of its folders", "train", MARKET, ["lacks query"],
        market(lambda root: shutil.rmtree(root / "query"))),
    Row("a folder of a data set without pictures", "train", MARKET, ["query: expected pictures", "Thumbs.db"],
        market(lambda root: [path.unlink() for path in (root / "query").glob("0*.jpg")])),
    Row("names that tell nothing", "train", MARKET, ["1 of 3 file names carry no identity or camera", "IMG_1.jpg"],
        market(lambda root: trees.fill(root / "query", ["IMG_1.jpg"]))),
    Row("a data set that was withdrawn", "train", ["dataset=duke", "data_dir={root}/data"],
        ["duke", "bounding_box_train", "withdrawn"], lambda world: (world.root / "data").mkdir()),
    Row("MSMT17 without its lists", "train", ["dataset=msmt17", "data_dir={root}/data"], ["list_train.txt"],
        lambda world: (msmt17(world) / "list_train.txt").unlink()),
    Row("a list that names what is not there", "train", ["dataset=msmt17", "data_dir={root}/data"],
        ["list_query.txt", "0009/none.jpg"],
        lambda world: (msmt17(world) / "list_query.txt").write_text("0009/none.jpg 9\n")),
    Row("CUHK03 without its protocol", "train", ["dataset=cuhk03", "data_dir={root}/data"],
        ["cuhk03_new_protocol_config_detected.mat"],
        lambda world: (trees.cuhk03_raw(world.root / "data") / "cuhk03_new_protocol_config_detected.mat").unlink()),
    Row("a data set that is for testing only", "train", ["dataset=occluded_reid", "data_dir={root}/data"],
        ["expected training pictures", "train on another one"],
        lambda world: trees.occluded_reid(world.root / "data" / "Occluded_REID")),
    Row("own pictures without those to train on", "train",
        [*OWN, "dataset.benchmarks.folder.pattern='(?P<pid>[^/]+)/'"],
        ["expected training pictures", "a folder `train`", "flat=train"],
        own("anna/1.png", "anna/2.png", "bob/1.png", "bob/2.png")),
    Row("own pictures that are not there", "train", ["dataset=folder", "data_dir={root}/none"],
        ["folder: expected a folder of pictures, found no folder", "Set `data_dir=...`"]),
    Row("a pattern that is none", "train", [*OWN, "dataset.benchmarks.folder.pattern='(?P<pid'"],
        ["`pattern` must be a regular expression"], own(*TRAIN)),
    Row("a pattern without identities", "train", [*OWN, "dataset.benchmarks.folder.pattern='c(?P<camid>.)'"],
        ["`pattern` must have a group (?P<pid>...)"], own(*TRAIN)),
    Row("a pattern that does not fit", "train", OWN, ["1 of 5 file names carry no identity", "bob.png"],
        own(*TRAIN, *TEST, "train/bob.png")),
    Row("one identity alone", "train", [*OWN, "dataset.val_fraction=0"],
        ["training needs at least two identities", "found 1"],
        own(*TRAIN[:2], *TEST)),
    Row("junk to train on", "train", OWN,
        ["1 of 5 pictures of train have a pid out of range: -1", "Only a gallery holds junk (-1)"],
        own(*TRAIN, "train/-1_c1_0.png", *TEST)),
    Row("one camera for queries and gallery", "train", OWN, ["a match counts only from another camera"],
        own(*TRAIN, "query/3_c1_0.png", "gallery/3_c1_1.png")),
    Row("nobody in both queries and gallery", "train", OWN,
        ["query and gallery must share identities", "none in common"],
        own(*TRAIN, "query/3_c1_0.png", "gallery/4_c2_0.png")),
    Row("queries without a gallery", "train", OWN, ["expected pictures in gallery"], own(*TRAIN, "query/3_c1_0.png")),
    Row("another meaning of a flat folder", "train", [*OWN, "dataset.benchmarks.folder.flat=validate"],
        ["`dataset.benchmarks.folder.flat` must be null or 'test' or 'train'", "'validate'"], own(*TRAIN)),
    Row("no table", "train", [*OWN, TABULAR], ["`csv`: expected a table"], own(*TRAIN)),
    Row("a table without identities", "train", [*OWN, TABULAR],
        ["table.csv", "pid missing, found path, name"], own(*TRAIN, table="path,name\na.png,bob\n")),
    Row("an empty table", "train", [*OWN, TABULAR], ["an empty file"],
        own(*TRAIN, table="")),
    Row("a table with rows that are wrong", "train", [*OWN, TABULAR],
        ["3 of 4 rows are wrong", "line 3: no file", "line 4: no pid", "line 5: split 'valid'"],
        own(*TRAIN, table=f"{TABLE}{TRAIN[0]},1,1,train\nx.png,1,1,\n{TRAIN[1]},,1,\n{TRAIN[2]},2,1,valid\n")),
    Row("cameras for some pictures only", "train", [*OWN, TABULAR],
        ["1 of 2 pictures have no camera", "Give each picture a camera, or none"],
        own(*TRAIN, table=f"{TABLE}{TRAIN[0]},1,1,train\n{TRAIN[1]},2,,train\n")),
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
    Row("an empty picture", "embed", [], ["none of the 1 pictures can be read", "empty file (0 bytes)"],
        pictures(jpg=b"")),
    Row("text for a picture", "embed", [], ["none of the 1 pictures", "is no JPEG, PNG"], pictures(jpg=b"hello")),
    Row("a GIF by another name", "search", ["query={root}/me.jpg"], ["no query can be read", "a GIF"],
        lambda world: (world.root / "me.jpg").write_bytes(b"GIF89a\x08\0\x08\0")),
    Row("a picture that says it is huge", "explain", [], ["none of the 1", "30,000 x 30,000 pixels", "Make it smaller"],
        pictures(png=huge())),
    Row("half a PNG", "embed", [], ["none of the 1 pictures", "cut off"], pictures(png=huge()[:20])),
    Row("a query that is not there", "search", ["query={root}/me.jpg"], ["`query`: nothing at", "me.jpg"]),
    Row("a query that is no picture", "search", ["query={root}/crops/notes.doc"], ["neither a picture", "nor a list"],
        lambda world: (world.root / "crops" / "notes.doc").write_text("notes")),
    Row("a list without paths", "embed", ["images={root}/list.csv"], ["expected a first line with the column path"],
        lambda world: (world.root / "list.csv").write_text("file\na.jpg\n")),
    Row("a picture of a pair that is not there", "explain", ["images=null", "pair=[{root}/a.jpg,{root}/b.jpg]"],
        ["Cannot read the picture", "a.jpg", "No such file"]),
]  # fmt: skip

ROWS = [*SETS, *PICTURES]
