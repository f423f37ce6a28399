"""Labels, hold-out, checks and the table of splits, on tiny worlds with known answers and on random ones by law."""

import random
from collections import Counter
from pathlib import Path

import pytest
import trees

from aelm.data import benchmarks
from aelm.data.layouts import OFFICIAL
from aelm.data.splits import (
    HeldOut,
    camera_map,
    check,
    count_warnings,
    hold_out,
    join,
    label_map,
    relabel,
    split_table,
    unmatched_queries,
)
from aelm.types import Benchmark, Picture


def shots(*cameras: int, pid: int) -> list[Picture]:
    """A picture of this identity from each of these cameras, in the order of their names."""
    return [Picture(f"{pid:04d}_c{camid}_{i}.jpg", pid, camid) for i, camid in enumerate(sorted(cameras))]


def world(seed: int, ids: int = 30) -> tuple[Picture, ...]:
    """Identities with a random number of pictures from random cameras."""
    chance = random.Random(seed)
    pids = chance.sample(range(1, 1000), ids)
    pictures = [p for pid in pids for p in shots(*chance.choices([1, 2, 3, 4, 9], k=chance.randint(1, 9)), pid=pid)]
    return tuple(sorted(pictures))


def unmatched_slowly(query: tuple[Picture, ...], gallery: tuple[Picture, ...]) -> tuple[Picture, ...]:
    return tuple(q for q in query if not any(g.pid == q.pid and g.camid != q.camid and g.pid >= 0 for g in gallery))


class TestLabels:
    """label_map, camera_map, relabel and join."""

    first = Benchmark("duke", tuple(shots(5, 2, pid=30) + shots(1, pid=4)))
    second = Benchmark("market1501", tuple(shots(1, 1, pid=4) + shots(2, pid=-0)))

    def test_labels_are_dense_sorted_and_do_not_depend_on_order(self) -> None:
        labels = label_map([self.second, self.first])
        assert labels == {("duke", 4): 0, ("duke", 30): 1, ("market1501", 0): 2, ("market1501", 4): 3}
        assert labels == label_map([self.first, self.second])
        shuffled = self.first._replace(train=self.first.train[::-1])
        assert labels == label_map([shuffled, self.second])
        assert list(labels.values()) == list(range(4))

    def test_cameras_of_two_data_sets_are_not_the_same(self) -> None:
        assert camera_map([self.second, self.first]) == {
            ("duke", 1): 0,
            ("duke", 2): 1,
            ("duke", 5): 2,
            ("market1501", 1): 3,
            ("market1501", 2): 4,
        }

    def test_relabelled_pictures_keep_who_is_who(self) -> None:
        both = [self.first, self.second]
        labels, cameras = label_map(both), camera_map(both)
        pictures = relabel(both, labels, cameras)
        assert [p.path for p in pictures] == [p.path for b in both for p in b.train]
        person_of = {label: key for key, label in labels.items()}
        camera_of = {camera: key for key, camera in cameras.items()}
        back = [(person_of[p.pid], camera_of[p.camid]) for p in pictures]
        assert back == [((b.name, p.pid), (b.name, p.camid)) for b in both for p in b.train]

    def test_labels_of_other_data_are_refused(self) -> None:
        labels, cameras = label_map([self.first]), camera_map([self.first])
        grown = self.first._replace(train=(*self.first.train, *shots(2, pid=77)))
        with pytest.raises(ValueError, match=r"1 of 3 identities .* not in the map, which has 2: \('duke', 77\)"):
            relabel([grown], labels, cameras)
        moved = self.first._replace(train=(*self.first.train, *shots(8, pid=4)))
        with pytest.raises(ValueError, match=r"1 of 4 cameras .* not in the map, which has 3: \('duke', 8\)"):
            relabel([moved], labels, cameras)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "expected one data set or more, each by another name, got none"),
            ([first, first], "each by another name, got duke, duke"),
            ([first, Benchmark("occluded_reid", ())], r"occluded_reid: expected training pictures, found none"),
            (
                [Benchmark("a", tuple(shots(1, pid=-1) + shots(1, pid=2)))],
                r"a: 1 of 2 training pictures .* negative pid: -001",
            ),
            (
                [Benchmark("a", tuple(shots(1, 2, 3, pid=7)))],
                r"a: training needs at least two identities .*, found 1\.",
            ),
        ],
    )
    def test_what_cannot_be_trained_on_is_refused(self, given: list[Benchmark], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            label_map(given)

    def test_one_identity_of_each_of_two_data_sets_is_enough(self) -> None:
        one, other = (Benchmark(name, tuple(shots(1, pid=1))) for name in "ab")
        assert label_map([one, other]) == {("a", 1): 0, ("b", 1): 1}

    def test_a_person_numbered_0_is_nobody_else_where_sets_are_joined(self) -> None:
        gallery = (Picture("g", 0, 1), Picture("j", -1, 1))
        both = join([Benchmark(name, (), (Picture("q", 0, 0),), gallery) for name in "ab"])
        assert [picture.pid for picture in both.query] == [0, 1]
        assert [picture.pid for picture in both.gallery] == [0, -1, 1, -1]

    def test_joined_sets_keep_identities_and_cameras_apart(self) -> None:
        one = Benchmark("a", (), tuple(shots(1, pid=5)), tuple(shots(3, pid=5) + shots(1, pid=-1)))
        other = Benchmark("b", (), tuple(shots(1, pid=5)), tuple(shots(3, pid=9)), {"dark": tuple(shots(8, pid=9))})
        joined = join([one, other])
        assert joined.name == "a+b"
        assert [(p.pid, p.camid) for p in joined.query] == [(0, 0), (1, 2)]
        assert [(p.pid, p.camid) for p in joined.gallery] == [(0, 1), (-1, 0), (2, 3)]
        assert [(p.pid, p.camid) for p in joined.more_queries["dark"]] == [(2, 4)]
        assert join([one]) is one

    def test_a_join_changes_no_match(self) -> None:
        parts = []
        for seed, name in enumerate("abc"):
            train, query, gallery = hold_out(world(seed), 0.5, seed)
            parts.append(Benchmark(name, train, query, gallery))
        joined = join(parts)
        matches = Counter(q.path for q in joined.query for g in joined.gallery if q.pid == g.pid and q.camid != g.camid)
        apart = Counter(
            q.path for b in parts for q in b.query for g in b.gallery if q.pid == g.pid and q.camid != g.camid
        )
        assert matches == apart
        assert len({p.pid for p in joined.train}) == sum(len({p.pid for p in b.train}) for b in parts)


class TestHoldOut:
    """Validation on held-out identities."""

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3])
    def test_laws(self, seed: int, fraction: float) -> None:
        pictures = world(seed)
        train, query, gallery = hold_out(pictures, fraction, seed)
        assert sorted([*train, *query, *gallery]) == list(pictures)  # nothing lost, nothing twice
        for part in (train, query, gallery):
            assert list(part) == sorted(part)
        held = {p.pid for p in query}
        assert len(held) == max(2, round(fraction * 30))
        assert held == {p.pid for p in gallery}
        assert not held & {p.pid for p in train}
        assert not unmatched_queries(query, gallery)
        assert max(Counter((p.pid, p.camid) for p in query).values()) == 1
        for spare in gallery:  # no camera could have asked one more question
            asked = {p.camid for p in query if p.pid == spare.pid}
            left = tuple(p for p in gallery if p != spare)
            if spare.camid not in asked:
                assert unmatched_queries((*query, spare), left)

    def test_it_is_the_same_again_whatever_the_order_and_another_with_another_seed(self) -> None:
        pictures = world(0, ids=60)
        chosen = hold_out(pictures, 0.2, seed=3)
        again = hold_out(pictures, 0.2, seed=3)
        assert chosen == again
        mixed = hold_out(random.Random(1).sample(pictures, len(pictures)), 0.2, seed=3)
        assert {p.pid for p in mixed.query} == {p.pid for p in chosen.query}
        assert {p.pid for p in hold_out(pictures, 0.2, seed=4).query} != {p.pid for p in chosen.query}

    def test_the_choice_is_frozen(self) -> None:
        pictures = [p for pid in range(1, 11) for p in shots(1, 2, pid=pid)]
        assert sorted({p.pid for p in hold_out(pictures, 0.3, seed=0).query}) == [4, 6, 10]

    def test_each_camera_asks_with_its_middle_picture_where_a_match_is_left(self) -> None:
        left_alone = shots(1, 1, pid=8) + shots(1, 1, pid=9)
        rich, poor = shots(1, 1, 1, 2, 2, pid=1), shots(3, 4, pid=2)
        train, query, gallery = hold_out(rich + poor + left_alone, 0.5, seed=0)
        assert list(train) == left_alone  # one camera: never held out
        # Camera 1 holds pictures 0 1 2, camera 2 pictures 3 4; of the poor one only one picture can ask.
        assert list(query) == [rich[1], rich[4], poor[0]]
        assert list(gallery) == [rich[0], rich[2], rich[3], poor[1]]

    def test_a_camera_with_pictures_to_spare_asks_before_one_without(self) -> None:
        # Would camera 1 ask first, its only picture were no match for camera 2 any more.
        pictures = shots(1, 2, 2, pid=1) + shots(1, 2, 2, pid=2) + shots(1, pid=8) + shots(1, pid=9)
        assert [p.camid for p in hold_out(pictures, 0.5, seed=0).query] == [2, 2]

    def test_nothing_is_held_out_for_a_fraction_of_zero(self) -> None:
        pictures = world(0)
        assert hold_out(pictures, 0, seed=0) == HeldOut(pictures)

    @pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
    def test_a_fraction_out_of_range_is_refused(self, fraction: float) -> None:
        with pytest.raises(ValueError, match=r"`fraction` must lie in \[0, 1\), got"):
            hold_out(world(0), fraction, seed=0)

    def test_too_few_identities_are_told(self) -> None:
        one_camera = [p for pid in range(9) for p in shots(1, 1, pid=pid)]
        with pytest.raises(
            ValueError, match=r"`val_fraction`=0.1 asks for 2 .*found 9 identities, 0 of them .*set it to 0"
        ):
            hold_out(one_camera, 0.1, seed=0)
        three = [p for pid in range(3) for p in shots(1, 2, pid=pid)]
        with pytest.raises(ValueError, match=r"leave at least two identities to train on, found 3 .*of which 2 would"):
            hold_out(three, 0.1, seed=0)


@pytest.mark.parametrize("seed", range(10))
def test_unmatched_queries_are_those_a_slow_search_finds(seed: int) -> None:
    chance = random.Random(seed)
    pictures = [Picture(f"{i:03d}.jpg", chance.randint(-1, 9), chance.randint(1, 3)) for i in range(60)]
    query, gallery = tuple(pictures[:25]), tuple(pictures[25:])
    assert unmatched_queries(query, gallery) == unmatched_slowly(query, gallery)
    assert unmatched_queries(query, ()) == query


class TestCheck:
    """What is refused before the first epoch."""

    good = Benchmark(
        "mine", tuple(shots(1, pid=1)), tuple(shots(1, 2, pid=5)), tuple(shots(3, pid=5) + shots(1, pid=-1))
    )

    def test_sound_data_pass(self) -> None:
        check(self.good)
        check(self.good._replace(train=()))
        check(self.good._replace(query=(), gallery=()))

    def test_real_trees_pass(self, tmp_path: Path) -> None:
        check(benchmarks.market1501(trees.market1501(tmp_path / "market1501")))
        check(benchmarks.duke(trees.duke(tmp_path / "duke")))
        check(benchmarks.cuhk03(trees.cuhk03_np(tmp_path / "cuhk03-np")))
        check(benchmarks.msmt17(trees.msmt17(tmp_path / "msmt17")))
        check(benchmarks.occluded_reid(trees.occluded_reid(tmp_path / "Occluded_REID")))
        check(benchmarks.partial_reid(trees.partial_reid(tmp_path / "Partial_REID")))
        check(benchmarks.folder(trees.fill(tmp_path / "crops", ["1.jpg", "1 again.jpg"]), pattern=r"(?P<pid>\d+)"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"gallery": ()},
                r"mine: expected pictures in gallery, found none \(1 in train, 2 in query, 0 in gallery\)",
            ),
            ({"query": ()}, "mine: expected pictures in query, found none"),
            ({"train": (), "query": (), "gallery": ()}, "mine: expected pictures in train, found none"),
            ({"train": (), "official": {"train images": 3}}, "mine: expected pictures in train, found none"),
            ({"query": tuple(shots(1, pid=6))}, r"none in common; query has 6, gallery has 5\."),
            (
                {"gallery": tuple(shots(1, pid=5)), "query": tuple(shots(1, 1, pid=5))},
                r"share 1 identities and none across cameras: query has the cameras 1, gallery has 1\.",
            ),
            (
                {"more_queries": {"occluded": tuple(shots(3, pid=5))}},
                "occluded query has the cameras 3, gallery has 3, 1|1, 3",
            ),
            (
                {"query": tuple(shots(1, pid=-1))},
                r"mine: 1 of 1 pictures of query have a pid out of range: -1 \(-001_c1_0",
            ),
            ({"gallery": tuple(shots(1, pid=-2))}, r"gallery have a pid out of range: -2 \(.*expected -1 or more"),
            ({"train": tuple(shots(1, pid=-1))}, r"train have a pid out of range: -1 \(.*expected 0 or more"),
        ],
    )
    def test_what_cannot_work_is_refused(self, change: dict[str, tuple[Picture, ...]], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check(self.good._replace(**change))


def exact(name: str) -> Benchmark:
    """A benchmark with exactly the published counts."""
    table = OFFICIAL[name]

    def split(part: str, first: int) -> list[Picture]:
        ids, cameras = table.get(f"{part} ids", 0), table.get(f"{part} cameras", 1)
        number = table.get(f"{part} images", ids)  # of MARS's tracks, only people are counted
        number -= table.get(f"{part} junk", 0)
        return [Picture(f"{part}{i}.jpg", first + i % ids, 1 + i % cameras) for i in range(number)] if number else []

    if name == "market1501":
        people = [Picture(f"gallery{i}.jpg", 1 + i % 750, 1 + i % 6) for i in range(13115)]
        distractors = [Picture(f"distractor{i}.jpg", 0, 1 + i % 6) for i in range(2798)]
        junk = [Picture(f"junk{i}.jpg", -1, 1 + i % 6) for i in range(3819)]
        gallery = people + distractors + junk
    else:
        gallery = split("gallery", 1)
    return Benchmark(name, tuple(split("train", 1)), tuple(split("query", 1)), tuple(gallery), official=table)


class TestCounts:
    """The table and its warnings."""

    @pytest.mark.parametrize("name", OFFICIAL)
    def test_published_counts_give_no_warning_about_counts(self, name: str) -> None:
        benchmark = exact(name)
        assert [warning for warning in count_warnings(benchmark) if "have no match" not in warning] == []
        assert "differs" not in split_table([benchmark])

    def test_a_missing_picture_is_noticed_in_each_split(self) -> None:
        benchmark = exact("market1501")
        warnings = count_warnings(benchmark._replace(train=benchmark.train[1:], gallery=benchmark.gallery[:-1]))
        warnings = [warning for warning in warnings if "have no match" not in warning]
        assert len(warnings) == 2
        assert warnings[0].startswith("market1501: train has 12,935 images, not 12,936. ")
        assert "gallery has 19,731 images, not 19,732, 3,818 junk, not 3,819. " in warnings[1]

    def test_plain_duke_taken_for_occluded_duke_is_recognised(self) -> None:
        benchmark = exact("duke")._replace(name="occluded_duke", official=OFFICIAL["occluded_duke"])
        warnings = count_warnings(benchmark)
        assert any("train has 16,522 images, not 15,618. " in warning for warning in warnings)
        assert "occluded_duke: these are the published counts of duke. Is it the right folder?" in warnings

    def test_queries_without_a_match_are_counted(self) -> None:
        benchmark = Benchmark("mine", (), tuple(shots(1, 2, 2, pid=1)), tuple(shots(2, pid=1)))
        assert [w.split(". ")[0] for w in count_warnings(benchmark)] == [
            "mine: 2 of 3 queries have no match from another camera in the gallery"
        ]

    def test_the_table_of_a_tiny_market(self, tmp_path: Path) -> None:
        trees.market1501(tmp_path)
        trees.fill(tmp_path / "query_occluded", ["0003_c5s1_000000_00.jpg"])
        benchmark = benchmarks.market_layout(tmp_path, "tiny", official={"query images": 2, "query ids": 3})
        held = HeldOut(tuple(shots(1, pid=1)), tuple(shots(1, pid=2)), tuple(shots(2, 3, pid=2)))
        assert split_table([benchmark, Benchmark("other", tuple(shots(1, 1, pid=4)))], {"tiny": held}).splitlines() == [
            "data set  split           images  ids  cameras  distractors  junk       published",
            "tiny      train                3    2        3            -     -               -",
            "tiny      query                2    2        2            -     -  differs: 2 / 3",
            "tiny      occluded query       1    1        1            -     -               -",
            "tiny      gallery              8    3        6            3     2               -",
            "tiny        to train           1    1        1            -     -               -",
            "tiny        val query          1    1        1            -     -               -",
            "tiny        val gallery        2    1        2            0     0               -",
            "other     train                2    1        1            -     -               -",
        ]

    def test_distractors_are_asked_for_by_no_query_set(self) -> None:
        benchmark = Benchmark(
            "mine",
            (),
            tuple(shots(1, pid=1)),
            tuple(shots(2, pid=1) + shots(2, pid=3)),
            {"dark": tuple(shots(1, pid=3))},
        )
        assert split_table([benchmark]).splitlines()[-1].split() == ["mine", "gallery", "2", "2", "1", "0", "0", "-"]
