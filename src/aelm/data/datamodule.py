"""ReIDDataModule: builds the loaders of training, validation and test from benchmarks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from aelm.data.dataset import ReIDDataset, printable
from aelm.data.loader import Loader
from aelm.data.sampler import ShardSampler, TrainSampler
from aelm.data.splits import (
    HeldOut,
    camera_map,
    check,
    check_trainable,
    count_warnings,
    digests,
    hold_out,
    join,
    label_map,
    relabel,
    split_table,
)
from aelm.data.transforms import Augment, Transforms
from aelm.types import NO_NAMES, Batch, Benchmark, InputError, Names, Picture, RunError


class EvaluationSet(NamedTuple):
    """Queries and the gallery they are ranked against.

    Attributes:
        name: Prefix of its metrics, such as ``test`` in ``test/mAP``.
        query: The queries.
        gallery: The gallery, including junk and distractors.
        tracks: If tracks are ranked: for each picture of queries, then gallery, the index of the first picture of its
            track. Empty if pictures are ranked.
        names: Names of identities and cameras.
    """

    name: str
    query: tuple[Picture, ...]
    gallery: tuple[Picture, ...]
    tracks: tuple[int, ...] = ()
    names: Names = NO_NAMES


def first_of_track(query: Sequence[Picture], gallery: Sequence[Picture], tracks: Mapping[str, int]) -> tuple[int, ...]:
    """Index of the first picture of each picture's track, per side; a picture without track is a track of its own."""
    first: dict[tuple[bool, object], int] = {}
    sides = [(True, picture.path) for picture in query] + [(False, picture.path) for picture in gallery]
    return tuple(first.setdefault((side, tracks.get(path, path)), i) for i, (side, path) in enumerate(sides))


def evaluation_sets(benchmarks: Sequence[Benchmark]) -> tuple[EvaluationSet, ...]:
    """The test sets of some benchmarks: ``test`` for the first, ``test_<name>`` for others, then ``.._<query set>``.

    Raises:
        ValueError: If a benchmark has no queries, or two sets would have the same name.

    >>> one = (Picture("x.jpg", 1, 1),)
    >>> first, second = Benchmark("a", one, one, one, {"occluded": one}), Benchmark("b", one, one, one, {"dark": one})
    >>> [found.name for found in evaluation_sets([first, second])]
    ['test', 'test_occluded', 'test_b', 'test_b_dark']
    """
    found: list[EvaluationSet] = []
    for i, benchmark in enumerate(benchmarks):
        prefix = "test" if i == 0 else f"test_{benchmark.name}"
        queries = {prefix: benchmark.query} if benchmark.query else {}
        queries |= {f"{prefix}_{more}": pictures for more, pictures in benchmark.more_queries.items()}
        sets = []
        for name, asked in queries.items():
            has_tracks = any(picture.path in benchmark.tracks for picture in (*asked, *benchmark.gallery))
            tracks = first_of_track(asked, benchmark.gallery, benchmark.tracks) if has_tracks else ()
            sets.append(EvaluationSet(name, asked, benchmark.gallery, tracks, benchmark.names))
        if not sets:
            raise InputError(
                f"{benchmark.name}: expected queries to test with, found none "
                f"({len(benchmark.train)} training pictures). Name another data set in `test`"
            )
        found += sets
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two test sets would report their scores as {', '.join(twice)}: rename one of the data sets")
    return tuple(found)


log = logging.getLogger(__name__)

Reader = Callable[[], Benchmark]


class ReIDDataModule(pl.LightningDataModule):
    """Training pictures of one or several benchmarks, held-out identities for validation, and test sets.

    It works without Lightning's Trainer and Hydra: call ``data.setup()``, then loop over ``data.train_dataloader()``;
    each pass is a new epoch of the sampler. Loaders yield :class:`aelm.types.Batch`. A test loader yields queries, then
    gallery; ``Batch.position`` indexes both together (see also :attr:`shared_galleries`). Under a Trainer the samplers
    split the data over processes, so ``use_distributed_sampler`` must be False.

    Args:
        benchmarks: Benchmarks or readers, by name; readers are called when needed, on rank zero first.
        transform: Transforms of training and evaluation.
        sampler: Builds the training sampler, such as ``partial(IdentitySampler, identities=16, images=4)``; called with
            labels, cameras, ``seed``, ``rank`` and ``world_size``.
        train: Benchmarks to train on, with separate identities and cameras; None for all with training pictures.
        test: Benchmarks to test on; None for all with queries.
        val_fraction: Share of each benchmark's training identities held out for validation. The choice does not depend
            on ``seed``, so runs with different seeds are validated on the same people.
        loader: Loading options.
        seed: Seed of sampling and augmentation.

    Raises:
        ValueError: From the constructor if ``train`` or ``test`` name an unknown benchmark; from :meth:`setup` if a
            split is empty, a query set has no match from another camera, or a step needs more identities than there
            are.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Reader | Benchmark],
        transform: Transforms,
        sampler: Callable[..., TrainSampler],
        train: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
        val_fraction: float = 0.0,
        loader: Loader | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for argument, names in (("train", train), ("test", test)):
            if isinstance(names, str):
                raise InputError(f"`{argument}` must be a list of names, got {names!r}: write [{names}]")
            if unknown := sorted(set(names or ()) - benchmarks.keys()):
                raise InputError(f"`{argument}` names {', '.join(unknown)}, found only {', '.join(sorted(benchmarks))}")
        self.benchmarks = dict(benchmarks)
        self.transform = transform
        self.sampler = sampler
        self.train = train
        self.test = test
        self.val_fraction = val_fraction
        self.loader = loader or Loader()
        self.loader.check()
        self.seed = seed
        self.train_pictures: tuple[Picture, ...] = ()
        self.val_sets: tuple[EvaluationSet, ...] = ()
        self.test_sets: tuple[EvaluationSet, ...] = ()
        self._labels: dict[tuple[str, int], int] = {}
        self._train_sets: tuple[Benchmark, ...] = ()
        self._read: dict[str, Benchmark] = {}
        self._datasets: dict[str, ReIDDataset] = {}
        self._told = False
        self._sampler: TrainSampler | None = None  # of all passes without a Trainer

    @property
    def num_ids(self) -> int:
        """Number N of training identities; known after ``setup``."""
        return len(self._labels)

    @property
    def label_map(self) -> dict[str, int]:
        """Identity of each label, such as ``{"market1501:2": 0, "mine:alice": 1}``, in label order."""
        names = {name: self._read[name].names for name, _ in self._labels}
        return {f"{name}:{names[name].pid(pid)}": label for (name, pid), label in self._labels.items()}

    @property
    def people(self) -> dict[str, str]:
        """Training and held-out identities, each with a digest of the names and sizes of its pictures."""
        return digests(self._train_sets)

    @property
    def val_names(self) -> list[str]:
        """Metric prefix of each validation loader."""
        return [one.name for one in self.val_sets]

    @property
    def test_names(self) -> list[str]:
        """Metric prefix of each test loader."""
        return [one.name for one in self.test_sets]

    @property
    def shared_galleries(self) -> dict[str, tuple[str, int]]:
        """Test sets whose loader holds only queries, since another set's loader holds the same gallery.

        Maps each to the other set and the offset between their gallery positions. So each gallery is embedded once.
        """
        shared, first = {}, dict[int, EvaluationSet]()
        for one in self.test_sets:
            source = first.setdefault(id(one.gallery), one)
            if source is not one:
                shared[one.name] = source.name, len(one.query) - len(source.query)
        return shared

    @property
    def tracks(self) -> dict[str, tuple[int, ...]]:
        """``EvaluationSet.tracks`` of each test set that has any."""
        return {one.name: one.tracks for one in self.test_sets if one.tracks}

    @property
    def unreadable(self) -> dict[str, tuple[str, ...]]:
        """Files of each set (``train``, ``val``, ``test``, ...) found unreadable so far by this process and its
        workers, each once; no sets without ``on_bad_image="skip"``, since an unreadable file is then an error."""
        if self.loader.on_bad_image != "skip":
            return {}
        found = {name: dataset.unreadable for name, dataset in self._datasets.items()}
        galleries = {one.name: {picture.path for picture in one.gallery} for one in self.test_sets}
        for name, (source, _) in self.shared_galleries.items():
            if name in found:
                found[name] += tuple(path for path in found[source] if path in galleries[name])
        return found

    def prepare_data(self) -> None:
        """Reads the needed benchmarks on rank zero only, so files are drawn or unpacked once."""
        self._benchmarks_for(self.trainer.state.fn if self.trainer else None)

    def setup(self, stage: str | None = None) -> None:
        """Reads and checks the benchmarks and assigns labels; the stage ``test`` needs no training pictures."""
        train, test = self._benchmarks_for(stage)
        held_out: dict[str, HeldOut] = {}
        trained, tested = ({one.name for one in part} for part in (train, test))
        used = [_used(self._read[name], name in trained, name in tested) for name in sorted(trained | tested)]
        for benchmark in used:
            check(benchmark)
        self.test_sets = evaluation_sets(test)
        if stage not in ("test", "predict"):
            check_trainable(train)
            held_out = {one.name: hold_out(one.train, self.val_fraction, 0, one.names) for one in train}
            self._train_sets = tuple(train)
            kept = [one._replace(train=held_out[one.name].train) for one in train]
            self._labels = label_map(kept)
            self.train_pictures = relabel(kept, self._labels, camera_map(kept))
            if self.val_fraction:
                joined = join(
                    [
                        Benchmark(name, (), part.query, part.gallery, names=self._read[name].names)
                        for name, part in held_out.items()
                    ]
                )
                self.val_sets = (EvaluationSet("val", joined.query, joined.gallery, names=joined.names),)
        self._sampler = None
        self._tell(used, held_out if self.val_fraction else {})

    def teardown(self, stage: str | None = None) -> None:
        for name, bad in self.unreadable.items():
            if bad:
                files = printable("\n".join(bad))
                log.warning("%s: %d pictures could not be read and were left out:\n%s", name, len(bad), files)

    def on_exception(self, exception: BaseException) -> None:
        """Adds to the error which files dead worker processes were reading."""
        for told in filter(None, (dataset.deaths() for dataset in self._datasets.values())):
            if told not in str(exception):
                exception.add_note(told)

    def train_sampler(self) -> TrainSampler:
        """A new sampler of the training pictures, for this process."""
        rank, world_size = self._place()
        labels, camids = ([getattr(picture, what) for picture in self.train_pictures] for what in ("pid", "camid"))
        return self.sampler(labels, camids, seed=self.seed, rank=rank, world_size=world_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        if not self.train_pictures:
            raise RunError("There are no training pictures yet: call setup() or setup('fit') first")
        if self.trainer or self._sampler is None:  # a Trainer sets the epoch of each sampler
            self._sampler = self.train_sampler()
        return self._build("train", self.train_pictures, sampler=self._sampler)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._ranking(one, one.gallery) for one in self.val_sets]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        if not self.test_sets:
            names = ", ".join(self.benchmarks)
            raise RunError(f"There is nothing to test on: no queries in {names}, or setup() was not called")
        shared = self.shared_galleries
        return [self._ranking(one, () if one.name in shared else one.gallery) for one in self.test_sets]

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        return self.test_dataloader()

    def _benchmarks_for(self, stage: str | None) -> tuple[list[Benchmark], list[Benchmark]]:
        """Benchmarks to train on and to test on in ``stage``; calls only the readers that are needed."""
        testing = stage in ("test", "predict")
        test = [self._benchmark(name) for name in (self.benchmarks if self.test is None else self.test)]
        if self.test is None:
            test = [one for one in test if one.query or one.more_queries]
        if testing:
            return [], test
        train = [self._benchmark(name) for name in (self.benchmarks if self.train is None else self.train)]
        some = [one for one in train if one.train or self.train is not None]
        return some or train, test  # if none has training pictures, the error lists all

    def _benchmark(self, name: str) -> Benchmark:
        if name not in self._read:
            given = self.benchmarks[name]
            read = given if isinstance(given, Benchmark) else given()
            # `train`, `test` and the metrics use the name given here.
            self._read[name] = read._replace(name=name)
        return self._read[name]

    def _tell(self, used: Sequence[Benchmark], held_out: Mapping[str, HeldOut]) -> None:
        """Logs the splits once; also builds the sampler, which checks that a step can be filled."""
        sampler = self.train_sampler() if self.train_pictures else None
        if sampler is not None:
            check_pasting(self.transform, sampler.batch_size, self.num_ids)
        batch = f"\n{sampler.describe()}" if sampler else ""
        if self._told or self._place()[0] != 0:
            return
        self._told = True
        log.info("%s%s", split_table(used, held_out), batch)
        for benchmark in used:
            # Also checks training pictures that a test does not load.
            whole = benchmark if self.train_pictures else benchmark._replace(train=self._read[benchmark.name].train)
            for sentence in count_warnings(whole):
                log.warning(printable(sentence))

    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _build(
        self, name: str, pictures: Sequence[Picture], num_queries: int = 0, sampler: TrainSampler | None = None
    ) -> DataLoader[Batch]:
        """A training loader if a sampler is given, otherwise an evaluation loader; data sets are built only once."""
        lives_on = not name.startswith("test")
        if name not in self._datasets:
            self._datasets[name] = ReIDDataset(
                pictures,
                self.transform.train if sampler else self.transform.test,
                num_queries=num_queries,
                cache=self.loader.cache if lives_on else "none",
                on_bad_image="replace" if sampler and self.loader.on_bad_image == "skip" else self.loader.on_bad_image,
                seed=self.seed,
            )
        return self.loader.build(
            self._datasets[name],
            sampler or ShardSampler(len(pictures), *self._place(), self.loader.test_batch_size),
            sampler.batch_size if sampler else self.loader.test_batch_size,
            lives_on=lives_on,
            processes=self.trainer.num_devices if self.trainer else 1,
        )

    def _ranking(self, one: EvaluationSet, gallery: tuple[Picture, ...]) -> DataLoader[Batch]:
        return self._build(one.name, (*one.query, *gallery), len(one.query))


def check_pasting(transform: Transforms, batch_size: int, num_ids: int) -> None:
    """Raises ValueError if every kind of pasting needs a second person, but a batch has none."""
    pasting = transform.train.pasting if isinstance(transform.train, Augment) else None
    if pasting is not None and pasting.needs_others and min(batch_size, num_ids) < 2:
        raise InputError(
            f"pasting {', '.join(pasting.kinds)} takes another person's picture out of the batch, and there are "
            f"{num_ids} identities and {batch_size} pictures a batch: take more, or `transform.pasting_kinds=[object]`"
        )


def _used(benchmark: Benchmark, train: bool, test: bool) -> Benchmark:
    """The benchmark without unused parts, which may be incomplete."""
    splits = (["train"] if train else []) + (["query", "gallery"] if test else [])
    official = {key: number for key, number in benchmark.official.items() if key.split()[0] in splits}
    if not test:
        return Benchmark(
            benchmark.name, benchmark.train, official=official, names=benchmark.names, doubts=benchmark.doubts
        )
    return benchmark._replace(train=benchmark.train if train else (), official=official)
