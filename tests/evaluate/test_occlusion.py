"""Hidden queries: what hides them, that 0 % is the plain test, and from the command to the files."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aelm.data import Loader, recipe
from aelm.data.dataset import ReIDDataset
from aelm.data.synthetic import EVALUATION, TRAINING, objects, occluders
from aelm.evaluate.occlusion import (
    MEAN,
    Occluded,
    Plan,
    Point,
    curve_csv,
    curve_scores,
    curve_table,
    labels_of,
    measure_curves,
    rows,
    scored,
)
from aelm.report.metrics import Test
from aelm.retrieval import bootstrap, rank_metrics
from aelm.types import Picture

RESIZE = recipe(32, 16).test
SHORT = Plan((0.0, 0.2, 0.5), ("below", "side"))


@pytest.fixture
def queries(tmp_path):
    """Four pictures of random blocks."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(4):
        image = cv2.resize(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8), (32, 64), interpolation=cv2.INTER_NEAREST)
        path = tmp_path / f"000{i}_c1s1_000001_00.png"
        cv2.imwrite(str(path), image)
        found.append(Picture(str(path), i, 1))
    return tuple(found)


def test_training_never_saw_what_hides_queries(queries, monkeypatch):
    """Of every kind, many draws: only the evaluation's family is ever drawn."""
    drawn = set()
    draw, pass_by = occluders.sheet, objects.stranger
    monkeypatch.setattr(occluders, "sheet", lambda kind, *rest: (drawn.add(kind), draw(kind, *rest))[1])
    monkeypatch.setattr(
        objects, "stranger", lambda *arguments: (drawn.add(occluders.Kind.PERSON), pass_by(*arguments))[1]
    )
    for seed in range(6):
        data = Occluded(queries, Plan((0.3,), seed=seed), RESIZE)
        for i in range(len(data)):
            data.read(i)
    assert drawn == set(EVALUATION)
    assert not drawn & set(TRAINING)


def test_each_point_hides_its_share_of_each_query_and_grows(queries):
    plan = Plan((0.0, 0.1, 0.3, 0.6))
    data = Occluded(queries, plan, RESIZE)
    plain = ReIDDataset(queries, RESIZE)
    assert data.points == tuple((kind, f) for kind in plan.kinds for f in (0.1, 0.3, 0.6))
    for q in range(len(queries)):
        whole = plain.read(q).astype(int)
        before = None
        for i, (kind, fraction) in enumerate(data.points):
            image = data.read(q * len(data.points) + i).astype(int)
            changed = np.abs(image - whole).sum(2) > 0
            assert float(data.hidden[q * len(data.points) + i]) == pytest.approx(fraction, abs=0.05)
            assert changed.mean() > 0.8 * fraction
            if kind in ("below", "side") and before is not None and fraction > 0.1:
                # The same thing has come further in: what is drawn anew lies inside what was hidden or beside it.
                assert (before & ~changed).mean() < 0.03
            before = changed


def test_what_hides_a_query_depends_on_its_name_alone(queries, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = []
    for picture in queries:
        source = Path(picture.path)
        target = elsewhere / source.name
        target.write_bytes(source.read_bytes())
        moved.append(picture._replace(path=str(target)))
    one, two = Occluded(queries, SHORT, RESIZE), Occluded(moved[::-1], SHORT, RESIZE)
    other = Occluded(queries, SHORT._replace(seed=1), RESIZE)
    points = len(one.points)
    same = [np.array_equal(one.read(i), other.read(i)) for i in range(len(one))]
    for q in range(4):
        for i in range(points):
            np.testing.assert_array_equal(one.read(q * points + i), two.read((3 - q) * points + i))
    assert not all(same)


def pixels(images):
    """An embedding that sees every pixel of every fourth row and column."""
    flat = images[:, :, ::4, ::4].flatten(1).float() / 255 - 0.5
    return torch.nn.functional.normalize(flat, dim=1)


def world(queries):
    """Each query with a match in the gallery, the same file seen by another camera."""
    gallery = tuple(picture._replace(camid=2) for picture in queries)
    loaded = ReIDDataset([*queries, *gallery], RESIZE)
    features = pixels(loaded.__getitems__(list(range(8))).image)
    return Test(features[:4], features[4:], queries, gallery)


@pytest.mark.parametrize("batch", [3, 128])
def test_a_sweep_is_every_point_ranked_by_hand(queries, batch):
    test = world(queries)
    strange = np.random.default_rng(0).normal(size=np.shape(test.gallery_features)).astype(np.float32)
    test = test._replace(gallery_features=strange)  # no query finds its own easily: each picture's features count
    points = measure_curves(test, SHORT, pixels, RESIZE, Loader(workers=0, test_batch_size=batch))
    assert [(p.kind, p.fraction) for p in points] == [
        ("below", 0.0), ("side", 0.0), ("below", 0.2), ("below", 0.5), ("side", 0.2), ("side", 0.5)
    ]  # fmt: skip
    data = Occluded(queries, SHORT, RESIZE)
    for point in points[2:]:
        i = data.points.index((point.kind, point.fraction))
        images = [RESIZE(data.read(q * len(data.points) + i)) for q in range(4)]
        features = pixels(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        expected = rank_metrics(features, test.gallery_features, *labels_of(test))
        np.testing.assert_allclose(point.result.average_precision, expected.average_precision)
        assert point.hidden == pytest.approx(point.fraction, abs=0.05)
    plain = rank_metrics(test.query_features, strange, *labels_of(test))
    np.testing.assert_allclose(points[0].result.average_precision, plain.average_precision)
    # No fraction 0: only hidden queries.
    assert {p.fraction for p in measure_curves(test, Plan((0.4,), ("side",)), pixels, RESIZE, Loader(0))} == {0.4}


def test_loading_processes_change_nothing(queries):
    test = world(queries)
    one, two = (measure_curves(test, SHORT, pixels, RESIZE, Loader(workers=w, test_batch_size=5)) for w in (0, 2))
    assert [p.hidden for p in one] == [p.hidden for p in two]
    assert [p.result.mAP for p in one] == [p.result.mAP for p in two]


def test_a_sweep_embeds_hidden_queries_alone(queries):
    """The gallery's embeddings are the test's own, at every point."""
    sizes = []
    measure_curves(
        world(queries), SHORT, lambda images: (sizes.append(len(images)), pixels(images))[1], RESIZE, Loader(0, 5)
    )
    assert sum(sizes) == len(queries) * 2 * 2


@pytest.mark.gpu
def test_a_gpu_ranks_hidden_queries_as_the_cpu_does(queries):
    test = world(queries)
    there = test._replace(query_features=test.query_features.cuda(), gallery_features=test.gallery_features.cuda())
    here = measure_curves(test, SHORT, pixels, RESIZE, Loader(workers=0))
    found = measure_curves(there, SHORT, lambda images: pixels(images).cuda(), RESIZE, Loader(workers=0))
    assert [p.result.mAP for p in found] == pytest.approx([p.result.mAP for p in here], abs=1e-6)


def test_the_mean_over_kinds_and_its_interval():
    rng = np.random.default_rng(0)
    pids, camids = np.arange(30) % 10, np.zeros(30, int)
    results = [
        rank_metrics(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), pids, pids, camids, camids + 1)
        for _ in range(2)
    ]
    points = [Point(kind, 0.3, hidden, r) for kind, hidden, r in zip("ab", (0.2, 0.4), results, strict=True)]
    curve = rows(points, 500)
    assert [row.kind for row in curve] == [MEAN, "a", "b"]
    mean, a, b = (row.values for row in curve)
    for name, wanted in (("mAP", [r.mAP for r in results]), ("rank1", [r.scalars()["rank1"] for r in results])):
        assert mean[name][0] == pytest.approx(np.mean(wanted))
        assert (a[name][0], b[name][0]) == pytest.approx(wanted)
        for values, result in ((a, results[0]), (b, results[1])):
            assert values[name][1:] == pytest.approx(bootstrap(result, samples=500)[name])
        assert mean[name][1] < mean[name][0] < mean[name][2]
    # A ranking beside itself is no further evidence: the interval stays as wide.
    assert scored([results[0]] * 3, 500)["mAP"] == pytest.approx(a["mAP"])
    assert curve[0].hidden == pytest.approx(0.3)
    named = curve_scores(curve, 500)
    assert named["occlusion/a_30/mAP"] == a["mAP"][0]
    assert named["occlusion/mean_30/rank1_low"] == mean["rank1"][1]
    assert named["occlusion/mAP"] == mean["mAP"][0]
    assert not [name for name in curve_scores(rows(points, 0), 0) if name.endswith(("_low", "_high"))]
    assert len({len(line) for line in curve_table(curve).splitlines()}) == 1
    assert curve_csv(curve).splitlines()[0].startswith("kind,fraction,hidden,mAP,mAP_low,mAP_high,rank1")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((0.3, 0.1)), "`occlusion_fractions` must ascend within 0 .. 0.75, one above 0, got"),
        (Plan((0.0,)), "one above 0"),
        (Plan(()), "one above 0"),
        (Plan((0.1, 0.9)), r"within 0 .. 0.75"),
        (Plan((0.1,), ("belw",)), "`occlusion_kinds` must be some of below, side, object, person, each once, got"),
        (Plan((0.1,), ()), "`occlusion_kinds`"),
        (Plan((0.1,), ("side", "side")), "each once"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        plan.check()


def test_yaml_and_plan_agree(composed):
    config = composed("evaluate")
    assert Plan(tuple(config.occlusion_fractions), tuple(config.occlusion_kinds), config.occlusion_seed) == Plan()
    assert (config.occlusion, config.claims) == (None, False)


def test_from_the_command_to_the_files(trained, tested, tmp_path, capsys):
    run_dir, scored = trained("figures=false", "trainer.max_epochs=1")
    out, best = tmp_path / "out", f"{run_dir}/checkpoints/best.ckpt"
    short = ["occlusion=sweep", "occlusion_fractions=[0,0.3,0.6]", "occlusion_kinds=[below,person]"]
    found = tested(best, *short, f"output={out}", "figures=true")
    assert {name: found[name] for name in scored} == scored
    for kind in (MEAN, "below", "person"):
        assert found[f"occlusion/{kind}_00/mAP"] == pytest.approx(scored["test/mAP"], abs=1e-12)
        assert found[f"occlusion/{kind}_00/rank1"] == pytest.approx(scored["test/rank1"], abs=1e-12)
        for name in (f"occlusion/{kind}_60/mAP", f"occlusion/{kind}_30/rank1"):
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["occlusion/below_60/mAP"] != found["test/mAP"]
    assert json.loads((out / "metrics.json").read_text()) == found
    with (out / "occlusion.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 3
    assert float(lines[2]["mAP"]) == pytest.approx(found["occlusion/mean_60/mAP"], abs=1e-5)
    assert float(lines[2]["hidden"]) == pytest.approx(0.6, abs=0.03)
    for name in ("occlusion.png", "occlusion_queries.png"):
        assert (out / name).stat().st_size > 10_000
    assert "occlusion, mAP" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`occlusion` must be sweep, or null for none, got 'swep'"):
        tested(best, "occlusion=swep")


def test_hidden_queries_are_ranked_on_the_device_that_embeds(queries, monkeypatch):
    """The meta device stands for a GPU: a copy to the CPU, or of another device, is an error there."""
    seen = []
    monkeypatch.setattr("aelm.evaluate.occlusion.rank_metrics", lambda query, *_: seen.append(query.device.type))
    measure_curves(
        world(queries), SHORT, lambda images: torch.empty(len(images), 6, device="meta"), RESIZE, Loader(workers=0)
    )
    assert seen[1:] == ["meta"] * 4
