from pathlib import Path

import pytest

from aelm.compare.arms import sort_into_arms
from aelm.compare.runs import Run

BASE = {"seed": 0, "model.aelm._target_": "aelm.models.AELM", "model.aelm.threshold": 0.7, "trainer.max_epochs": 3}


def run(number, settings=None, scores=True, **changed):
    apart = {"name": f"run{number}", "run_dir": f"/x/{number}", "data_dir": f"/d/{number}", "dataset.workers": number}
    places = {"dataset.benchmarks.synthetic.root": f"/d/{number}", "logger.save_dir": f"/x/{number}"}
    config = {**BASE, **apart, **places, **{key.replace("__", "."): value for key, value in changed.items()}}
    told = {key.replace("__", "."): str(value) for key, value in (settings or {}).items()}
    return Run(Path(f"/x/{number}"), config, told, {"test/mAP": 0.1 * number} if scores else {}, {})


def test_what_differs_beyond_seed_name_and_paths_makes_an_arm():
    arms = sort_into_arms(
        [run(1, seed=0), run(2, seed=1), run(3, seed=0, model__aelm__threshold=0.5), run(4, scores=False, seed=5)]
    )
    assert [arm.name for arm in arms] == ["threshold=0.7", "threshold=0.5"]
    assert [list(arm.runs) for arm in arms] == [[0, 1], [0]]
    assert arms[0].differs == {"model.aelm.threshold": "0.7"}
    assert arms[0].values("test/mAP") == {0: pytest.approx(0.1), 1: pytest.approx(0.2)}
    assert arms[0].values("other") == {}


def test_the_command_line_names_arms_and_the_configuration_sorts_them():
    both = {"arm": "both", "seed": 0}
    arms = sort_into_arms(
        [
            run(1, both, seed=0),
            # The default, said once more, makes no other arm.
            run(2, {**both, "model__aelm__threshold": 0.7, "trainer__max_epochs": "3"}, seed=1),
            run(3, {**both, "model__aelm__threshold": "0.50"}, seed=0, model__aelm__threshold=0.5),
            run(4, {"arm": "ifcn"}, seed=0, model__aelm___target_="aelm.models.IFCN"),
        ]
    )
    assert [arm.name for arm in arms] == ["both", "both, model.aelm.threshold=0.5", "ifcn"]
    assert list(arms[0].runs) == [0, 1]


def test_arms_of_one_name_are_told_apart_by_their_configuration():
    arms = sort_into_arms(
        [run(1, {"arm": "a"}), run(2, {"arm": "a"}, trainer__max_epochs=9), run(3, {"arm": "b"}, trainer__max_epochs=1)]
    )
    assert [arm.name for arm in arms] == ["a, max_epochs=3", "a, max_epochs=9", "b"]


def test_arms_whose_short_names_are_equal_get_full_ones():
    arms = sort_into_arms([run(1, transform__flip__p=0.5), run(2, transform__blur__p=0.5)])
    assert [arm.name for arm in arms] == ["transform.flip.p=0.5", "transform.blur.p=0.5"]


def test_keys_that_are_ignored_make_no_arm():
    runs = [run(1, seed=0, trainer__accelerator="gpu"), run(2, seed=1, trainer__accelerator="cpu")]
    assert len(sort_into_arms(runs)) == 2
    (arm,) = sort_into_arms(runs, ["trainer.acc*"])
    assert (arm.name, list(arm.runs)) == ("all runs", [0, 1])


def test_a_seed_that_comes_twice_and_runs_without_scores_are_refused():
    with pytest.raises(ValueError, match=r"/x/1 and /x/2 are both seed 0 of c: .*out of `runs`"):
        sort_into_arms([run(1, {"arm": "c"}), run(2, {"arm": "c"})])
    with pytest.raises(ValueError, match="none of the 1 runs has scores yet"):
        sort_into_arms([run(1, scores=False)])


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["x/ifcn-s0", "y/ifcn-s1"], "ifcn"),
        (["two_seed0", "two_seed1"], "two"),
        (["swap.0", "swap.1"], "swap"),
        (["t10", "t10-1"], "t10"),  # the end of a name is no seed unless something stands before it
        (["s/0", "s/1"], "max_epochs=3"),  # a sweep's numbers
        (["2026-01-02_03-04-05-0", "2026-01-02_03-04-05-1"], "max_epochs=3"),
        (["one", "other"], "max_epochs=3"),
    ],
)
def test_without_an_arm_on_the_command_line_directories_name_it(folders, name):
    runs = [run(seed, seed=seed)._replace(folder=Path(folder)) for seed, folder in enumerate(folders)]
    assert sort_into_arms([*runs, run(5, trainer__max_epochs=9)])[0].name == name
