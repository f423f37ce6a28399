"""The claims on maps whose answers are known, and from the command to the files."""

import csv
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aelm.command.schema import check_keys
from aelm.data import recipe
from aelm.data.synthetic import BodyPart, shoot, varied
from aelm.data.synthetic.plan import SIZES, TRAIN, plan
from aelm.evaluate.claims import (
    AREAS,
    MEANINGS,
    PARTS,
    PictureMeasures,
    by_stage,
    cells,
    claim_scores,
    correlation,
    covered,
    hottest,
    means,
    measure,
    ratio,
    shifts,
)
from aelm.evaluate.evidence import FurtherShots, World, draw_claims, measured_shots, world_of
from aelm.models.aelm import discriminative_region

HEAD, TORSO = PARTS.index(BodyPart.HEAD), PARTS.index(BodyPart.TORSO)


def parts_at(shape, **places):
    """Whole cells of a map that show parts of the body."""
    parts = np.zeros((len(PARTS), *shape))
    for name, cells_of in places.items():
        parts[(PARTS.index(BodyPart[name.upper()]), *zip(*cells_of, strict=True))] = 1
    return parts


def map_of(shape, **heat):
    """A map that is 0 but where it is said; ``r1c2=3`` is row 1, column 2."""
    found = np.zeros(shape)
    for place, value in heat.items():
        row, column = place[1:].split("c")
        found[int(row), int(column)] = value
    return found


def test_cells_are_the_shares_of_their_pixels():
    rng = np.random.default_rng(0)
    parts, visible = rng.integers(0, 10, (128, 64)).astype(np.uint8), rng.random((128, 64)) < 0.7
    found = cells(parts, visible, (16, 8))
    for k, part in enumerate(PARTS):
        for row, column in ((0, 0), (7, 3), (15, 7)):
            block = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            shown = (parts[block] == part) & visible[block]
            assert found[k, row, column] == pytest.approx(shown.mean(), abs=1e-6)
    # Cells that cut through pixels share them out: nothing is lost.
    cut = cells(parts, visible, (5, 3))
    assert cut.mean((1, 2)) == pytest.approx([((parts == part) & visible).mean() for part in PARTS], abs=1e-6)


def test_heat_on_the_body_is_what_lies_there_and_its_chance_the_area():
    parts = parts_at((4, 4), head=[(0, 0)], torso=[(1, 0), (1, 1), (2, 0)])
    a = map_of((4, 4), r0c0=3, r1c0=1, r3c3=1)
    found = measure([a], parts, np.zeros((4, 4)))
    assert found["a/body"] == pytest.approx((4 / 5, 4 / 16))
    assert "both" not in found
    assert "a/occluder" not in found
    # The scale and the offset of a map say nothing.
    assert measure([7 * a - 3], parts, np.zeros((4, 4)))["a/body"] == pytest.approx(found["a/body"])


def test_the_hidden_body_does_not_count():
    parts = np.full((4, 4), BodyPart.TORSO, np.uint8)
    hidden = np.zeros((4, 4), bool)
    hidden[2:] = True
    found = measure([map_of((4, 4), r0c0=3, r3c3=1)], cells(parts, ~hidden, (4, 4)), hidden.astype(float))
    assert found["a/body"] == pytest.approx((3 / 4, 1 / 2))
    assert found["a/occluder"] == pytest.approx((1 / 4, 1 / 2))


def test_a_complementary_b_covers_what_a_does_not_and_a_copy_of_a_nothing_new():
    """Rows of a map of ten: the head in the first, the torso in the last; A looks at the head."""
    shape = (10, 2)
    parts = parts_at(shape, head=[(0, 0), (0, 1)], torso=[(9, 0), (9, 1)])
    steps = np.arange(20.0)
    a, b = np.sort(steps)[::-1].reshape(shape), steps.reshape(shape)  # A falls from top to bottom, B rises
    apart = measure([a, b], parts, np.zeros(shape))
    assert apart["a/part_head"].value == apart["b/part_torso"].value == 1
    assert apart["a/part_torso"].value == apart["b/part_head"].value == 0
    assert (apart["a/parts"].value, apart["both"].value, apart["either"].value, apart["only_b"].value) == (
        0.5, 0, 1, 0.5
    )  # fmt: skip
    assert apart["overlap"].value == 0
    assert apart["correlation"].value == pytest.approx(-1)
    assert apart["b_on_region_of_a"].value < apart["b_on_region_of_a"].chance
    copy = measure([a, a], parts, np.zeros(shape))
    assert (copy["both"].value, copy["either"].value, copy["only_b"].value) == (0.5, 0.5, 0)
    assert copy["overlap"].value == 1
    assert copy["correlation_body"].value == pytest.approx(1)
    assert copy["b_on_region_of_a"].value > copy["b_on_region_of_a"].chance


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_slow_loops(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 7)), int(rng.integers(2, 6)))
    H, W = shape
    a, b = rng.normal(size=(2, *shape))
    parts = rng.random((len(PARTS), *shape)) * (rng.random((len(PARTS), 1, 1)) < 0.6)
    found = measure([a, b], parts, rng.random(shape))
    seen = [k for k in range(len(PARTS)) if parts[k].mean() >= 0.005]

    def hits(heat, area):
        order = sorted((-heat[i, j], i, j) for i in range(H) for j in range(W))[: max(round(area * H * W), 1)]
        held = {(i, j) for _, i, j in order}
        return held, {k for k in seen if sum(parts[k][i, j] for i, j in held) >= 0.5 * parts[k].sum()}

    value, chance = dict.fromkeys(("both", "only_b", "overlap"), 0.0), dict.fromkeys(("both", "only_b", "overlap"), 0.0)
    for area in AREAS:
        region_a, parts_a = hits(a, area)
        for down in range(H):
            for right in range(W):
                # The ties of a shifted map could fall otherwise, so the region is shifted and not the map.
                region_b = {((i + down) % H, (j + right) % W) for i, j in hits(b, area)[0]}
                parts_b = {k for k in seen if sum(parts[k][i, j] for i, j in region_b) >= 0.5 * parts[k].sum()}
                now = {
                    "both": len(parts_a & parts_b) / len(seen),
                    "only_b": len(parts_b - parts_a) / len(seen),
                    "overlap": len(region_a & region_b) / len(region_a | region_b),
                }
                for name, one in now.items():
                    chance[name] += one / (len(AREAS) * H * W)
                    value[name] += one / len(AREAS) if down == right == 0 else 0
    for name in value:
        assert found[name] == pytest.approx((value[name], chance[name])), name
    scaled = (b - b.min()) / (b.max() - b.min())
    region = discriminative_region(torch.from_numpy(a)[None], 0.7)[0].numpy()
    assert found["b_on_region_of_a"].value == pytest.approx(scaled[region].sum() / scaled.sum(), rel=1e-5)
    body = parts.sum(0)
    plain = np.cov(a.ravel(), b.ravel(), aweights=body.ravel())
    assert found["correlation_body"].value == pytest.approx(plain[0, 1] / np.sqrt(plain[0, 0] * plain[1, 1]), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_uniform_map_has_no_lift(seed):
    """By chance is the mean over all shifts: for a share of heat that is what a uniform map gives."""
    rng = np.random.default_rng(seed)
    heat, body = rng.random((4, 3)), rng.random((4, 3))
    moved = [float((one * body).sum() / one.sum()) for one in shifts(heat)]
    parts = np.zeros((len(PARTS), 4, 3))
    parts[TORSO] = body
    low = heat - heat.min()
    assert np.mean([float((one * body).sum() / one.sum()) for one in shifts(low)]) == pytest.approx(
        measure([heat], parts, np.zeros((4, 3)))["a/body"].chance
    )
    assert np.mean(moved) == pytest.approx(body.mean())


def test_a_constant_map_and_an_invisible_person_tell_nothing():
    parts = parts_at((3, 3), head=[(0, 0)])
    assert measure([np.ones((3, 3))], parts, np.zeros((3, 3))) is None
    assert measure([map_of((3, 3), r0c0=1), np.zeros((3, 3))], parts, np.zeros((3, 3))) is None
    assert measure([map_of((3, 3), r0c0=1)], 0 * parts, np.zeros((3, 3))) is None
    assert math.isnan(correlation(np.ones(3), np.arange(3.0), np.ones(3)))


def test_regions_hold_their_area_and_grow_with_it():
    heat = np.random.default_rng(0).normal(size=(16, 8))
    regions = [hottest(heat, area) for area in AREAS]
    assert [int(region.sum()) for region in regions] == [round(128 * area) for area in AREAS]
    assert all((small <= large).all() for small, large in itertools.pairwise(regions))
    assert hottest(heat, 0.001).sum() == 1
    assert covered(np.ones((1, 16, 8), bool), np.ones((2, 16, 8))).all()


def test_a_ratio_is_as_uncertain_as_its_people_differ():
    """Against the bootstrap over people, and against the plain standard error where each has one picture."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 5)
    base = rng.random(40)[people]
    above, below = base + 0.1 * rng.random(200), 1 + rng.random(200)
    value, error = ratio(above, below, people)
    assert value == pytest.approx(above.sum() / below.sum())
    draws = rng.integers(0, 40, (4000, 40))
    sums = [np.bincount(people, column) for column in (above, below)]
    spread = (sums[0][draws].sum(1) / sums[1][draws].sum(1)).std()
    assert error == pytest.approx(spread, rel=0.1)
    assert error > 1.5 * ratio(above, below, np.arange(200))[1]
    alone = rng.normal(size=30)
    assert ratio(alone, np.ones(30), np.arange(30))[1] == pytest.approx(alone.std(ddof=1) / np.sqrt(30))
    assert math.isnan(ratio(alone, np.zeros(30), np.arange(30))[0])
    assert math.isnan(ratio(alone, np.ones(30), np.zeros(30, int))[1])


def test_means_leave_out_what_a_picture_does_not_tell():
    def one(identity, body, hit):
        told = None if body is None else measure([map_of((2, 2), r0c0=body, r1c1=1 - body)],
                                                 parts_at((2, 2), head=[(0, 0)]), np.zeros((2, 2)))  # fmt: skip
        return PictureMeasures("x", identity, 1, (hit,), told)

    found = means([one(1, 0.25, True), one(2, 0.75, False), one(3, None, True), one(3, 0.5, True)])
    assert found["a/body"].value == pytest.approx((0.25 + 0.75 + 0.5) / 3)
    assert found["a/body"].lift == pytest.approx(0.5 / 0.25)
    assert found["a/accuracy"].value == pytest.approx(3 / 4)
    named = claim_scores("claims", {2: found})
    assert named["claims/stage2/a/body_lift"] == found["a/body"].lift
    assert not [name for name in named if "part_" in name]
    assert all(math.isfinite(value) for value in named.values())


LABELS = ("other:4", "synthetic:2", "synthetic:7")
CONFIG = {"dataset": {"benchmarks": {
    "other": {"_target_": "aelm.data.benchmarks.duke"},
    "synthetic": {"_target_": "aelm.data.synthetic.synthetic", "size": "tiny", "seed": 3, "height": 64},
}}}  # fmt: skip


def test_further_shots_are_of_trained_people_and_in_no_training():
    world = world_of(CONFIG, LABELS)
    assert world == (3, "tiny", 64, ((2, 1), (7, 2)))
    shots = FurtherShots(world, None, recipe(32, 16).test, occluded=False)
    hidden = FurtherShots(world, None, recipe(32, 16).test, occluded=True)
    assert len(shots) == 2 * SIZES["tiny"].cameras
    trained = {(t.identity, t.camera, t.shot) for t in plan(SIZES["tiny"], 3, 0.1) if t.folder == TRAIN}
    for i, shot in enumerate(shots):
        taken = shoot(3, shot.identity, shot.camera, SIZES["tiny"].train_shots, height=64)
        assert (shot.identity, shot.camera, SIZES["tiny"].train_shots) not in trained
        assert (shot.identity, shot.camera, 0) in trained
        np.testing.assert_array_equal(shot.parts, taken.parts)
        assert shot.label == {2: 1, 7: 2}[shot.identity]
        assert shot.image.shape == (3, 32, 16)
        assert not shot.hidden.any()
        assert hidden[i].hidden[hidden[i].parts > 0].mean() > 0.2
        np.testing.assert_array_equal(hidden[i].parts, shot.parts)
    assert {shot.camera for shot in (shots[i] for i in range(len(shots)))} == {1, 2, 3}
    assert FurtherShots(world, 1, recipe(32, 16).test, occluded=False).chosen == [(2, 1)]
    with pytest.raises(ValueError, match="`claims_people` must be at least 1, or null for all, got 0"):
        FurtherShots(world, 0, recipe(32, 16).test, occluded=False)


def test_people_of_the_varied_world_are_drawn_as_in_their_training():
    world = World(0, "varied", 128, ((7, 0),))
    shots = FurtherShots(world, None, recipe(128, 64).test, occluded=False)
    for camera in (1, 3):
        drawn = varied.shoot(0, 7, camera, SIZES["varied"].train_shots, height=128)
        assert np.array_equal(shots[camera - 1].parts, drawn.parts)


def test_a_training_without_synthetic_people_has_no_truth():
    with pytest.raises(ValueError, match="trained on other"):
        world_of({"dataset": {"benchmarks": {"other": CONFIG["dataset"]["benchmarks"]["other"]}}}, ["other:4"])
    with pytest.raises(ValueError, match="data it does not name"):
        world_of({}, ["x:1"])


class Pointing(torch.nn.Module):
    """A network that looks where it is told, and takes everyone for label 1; keeps whose maps were asked for."""

    def __init__(self, heats):
        super().__init__()
        self.heats, self.mean, self.asked = heats, torch.zeros(1), []

    def explain(self, images, pids=None):
        from aelm.types import HeadOutput

        self.asked += pids.tolist()
        size = len(images)
        logits = torch.nn.functional.one_hot(torch.ones(size, dtype=torch.int64), 3).float()
        heads = tuple(HeadOutput(logits, logits, logits, h.expand(size, -1, -1)) for h in self.heats)
        return (heads,)


def test_every_shot_is_examined_once_at_every_stage():
    world = world_of(CONFIG, LABELS)
    shots = FurtherShots(world, None, recipe(32, 16).test, occluded=False)
    top = torch.zeros(8, 4)
    top[:2] = 1
    network = Pointing((top, top.flip(0)))
    found = measured_shots(network, shots, workers=0)
    assert network.asked == [LABELS.index(f"synthetic:{shots[i].identity}") for i in range(len(shots))]
    assert [(one.identity, one.stage) for one in found] == [(shots[i].identity, 1) for i in range(len(shots))]
    assert [one.hits for one in found] == [(one.identity == 2,) * 2 for one in found]
    by_name = means(found)
    assert by_name["a/accuracy"].value == 0.5
    # A looks at the top of the picture, B at its bottom: hair is up, shoes are down.
    assert by_name["a/part_hair"].value > by_name["b/part_hair"].value
    assert by_name["b/part_shoes"].value > by_name["a/part_shoes"].value
    for i, one in enumerate(found):
        body = cells(shots[i].parts, ~shots[i].hidden, (8, 4)).sum(0)
        assert one.measures["a/body"].value == pytest.approx(body[:2].mean())


def test_from_the_command_to_the_files(trained, tested, tmp_path, capsys):
    run_dir, scored = trained("figures=false", "trainer.max_epochs=1")
    out = tmp_path / "out"
    found = tested(
        f"{run_dir}/checkpoints/best.ckpt", "claims=true", "claims_people=3", f"output={out}", "figures=true"
    )
    assert {name: found[name] for name in scored} == scored
    claimed = {name: value for name, value in found.items() if name.startswith("claims")}
    for prefix in ("claims", "claims_occluded"):
        for s in (1, 2):
            assert f"{prefix}/stage{s}/both" in claimed
            for end in ("", "_se", "_chance", "_lift", "_lift_se"):
                assert math.isfinite(claimed[f"{prefix}/stage{s}/a/body{end}"])
    assert "claims_occluded/stage1/a/occluder" in claimed
    assert "claims/stage1/a/occluder" not in claimed
    assert json.loads((out / "metrics.json").read_text()) == found
    with (out / "claims.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 3 * SIZES["tiny"].cameras
    mine = [float(line["a/body"]) for line in lines if (line["set"], line["stage"]) == ("claims", "1")]
    assert np.mean(mine) == pytest.approx(claimed["claims/stage1/a/body"], abs=1e-5)
    with (out / "claims_parts.csv").open() as file:
        assert {line["part"] for line in csv.DictReader(file)} >= {"torso", "left_leg"}
    for prefix in ("claims", "claims_occluded"):
        assert (out / f"{prefix}_heatmaps.png").stat().st_size > 10_000
        assert (out / f"{prefix}_parts.png").stat().st_size > 10_000
    assert "heat on the visible body" in capsys.readouterr().out


def test_a_network_with_one_head_has_as_claims(tmp_path):
    shots = FurtherShots(world_of(CONFIG, LABELS), None, recipe(32, 16).test, occluded=False)
    heat = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    stages = by_stage(measured_shots(Pointing((heat,)), shots, workers=0))
    assert set(stages) == {1}
    assert {name.partition("/")[0] for name in stages[1]} == {"a"}
    files = draw_claims(tmp_path, "claims", Pointing((heat,)), shots, stages)
    assert all(file.stat().st_size > 10_000 for file in files)


def test_what_cannot_be_measured_is_said_before_anything_is_tested(composed, tmp_path):
    from aelm.evaluate import task as evaluate
    from tests.embed.test_embedder import write_onnx
    from tests.tiny import write_checkpoint

    quiet = ["figures=false", "trainer.accelerator=cpu", "dataset=market1501"]
    write_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="claims=true` needs a checkpoint of a training on synthetic"):
        evaluate.run(composed("evaluate", f"checkpoint={tmp_path}/other.ckpt", "claims=true", *quiet))
    write_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="gives only embeddings, no feature maps"):
        evaluate.run(composed("evaluate", f"checkpoint={tmp_path}/model.onnx", "claims=true", *quiet))
    for key in ("claims=true", "occlusion=sweep"):
        with pytest.raises(ValueError, match=f"`{key[:6]}.*no part in ready features.*Give `checkpoint`"):
            evaluate.run(composed("evaluate", "query=q", "gallery=g", key))


def test_the_document_names_every_measure_and_its_commands_compose(composed):
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    cells_of = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name.removeprefix("a/").removeprefix("b/") for cell in cells_of for name in re.findall(r"`([^`]+)`", cell)}
    kinds = {"below", "side", "object", "person"}
    assert named - kinds == set(MEANINGS)
    commands = re.findall(r"^python -m aelm\.evaluate (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for arguments in commands:
        check_keys(composed("evaluate", *arguments.split()))
