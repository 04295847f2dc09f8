"""The sources of each task's data: drawn, or read from files. A new source is a new entry of `SOURCES`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from nip.data import hub, tables
from nip.data.offline import corpora
from nip.data.tasks import fashion_mnist, image, original_pickles, passages, pathfinder, probe, retrieval, text
from nip.data.tasks.listops.generate import plan_listops
from nip.data.tasks.listops.official_files import plan_tsv, recognises_tsv
from nip.data.tasks.pathfinder import official_files
from nip.data.tasks.registry import SPLITS, Task
from nip.data.tasks.source import Source


def _never(path: Path, task: Task) -> bool:
    """For a source that is given by a name, not by files."""
    return False


def _has_parquet_files(path: Path, task: Task) -> bool:
    """Whether the folder or a subfolder has a parquet file of the training split."""
    return bool(tables.parquet_files(path, "train"))


_PATHFINDER = tuple(pathfinder.PREFIX + level for level in pathfinder.LEVELS)

# Formats are tried in this order; a task's first source without files is its default.
SOURCES: tuple[Source, ...] = (
    Source(
        name="drawn",
        tasks=("listops",),
        says="drawn by the official rule, by --seed",
        plan=plan_listops,
        parameters=("train", "dev", "test", "max_depth", "max_args", "min_length", "max_length"),
        seeded=True,
    ),
    Source(
        name="drawn",
        tasks=_PATHFINDER,
        says="drawn by the published rule, by --seed",
        plan=pathfinder.plan,
        parameters=SPLITS,
        seeded=True,
    ),
    Source(
        name="official",
        tasks=("listops",),
        says="a folder with basic_train.tsv, basic_val.tsv and basic_test.tsv",
        plan=plan_tsv,
        recognises=recognises_tsv,
    ),
    Source(
        name="official",
        tasks=("retrieval",),
        says="a folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv",
        plan=retrieval.plan,
        recognises=retrieval.recognises,
    ),
    Source(
        name="official",
        tasks=_PATHFINDER,
        says="a folder with imgs/ and metadata/ of the level",
        plan=official_files.plan,
        recognises=official_files.recognises,
        split_rules=official_files.SPLIT_RULES,
        seeded=True,
    ),
    Source(
        name="pickles",
        tasks=("listops", "text", "retrieval", "image", *_PATHFINDER),
        says="a folder with the original's TASK.train.pickle, TASK.dev.pickle and TASK.test.pickle",
        plan=original_pickles.plan,
        recognises=original_pickles.recognises,
    ),
    Source(
        name="folder",
        tasks=("text",),
        says="IMDb's folder with train/pos, train/neg, test/pos and test/neg",
        plan=text.plan_folder,
        recognises=text.recognises_folder,
        split_rules=text.SPLIT_RULES,
    ),
    Source(
        name="csv",
        tasks=("text",),
        says="a folder with train.csv and test.csv, or one CSV file, with the columns text and label",
        plan=text.plan_csv,
        recognises=text.recognises_csv,
        split_rules=text.SPLIT_RULES,
    ),
    Source(
        name="parquet",
        tasks=("text",),
        says="a folder with train-*.parquet and test-*.parquet",
        plan=text.plan_parquet,
        recognises=_has_parquet_files,
        split_rules=text.SPLIT_RULES,
    ),
    Source(
        name="hub",
        tasks=("text",),
        says="the name of a set on the Hugging Face Hub, such as stanfordnlp/imdb",
        plan=text.plan_hub,
        recognises=_never,
        split_rules=text.SPLIT_RULES,
    ),
    Source(
        name="python",
        tasks=("image",),
        says="a folder with CIFAR-10's data_batch_1 … 5 and test_batch, torchvision's too",
        plan=image.plan_python,
        recognises=image.recognises_python,
    ),
    Source(
        name="binary",
        tasks=("image",),
        says="a folder with CIFAR-10's data_batch_1.bin … 5 and test_batch.bin",
        plan=image.plan_binary,
        recognises=image.recognises_binary,
    ),
    Source(
        name="parquet",
        tasks=("image",),
        says="a folder with train-*.parquet and test-*.parquet",
        plan=image.plan_parquet,
        recognises=_has_parquet_files,
    ),
    Source(
        name="hub",
        tasks=("image",),
        says="the name of a set on the Hugging Face Hub, such as uoft-cs/cifar10",
        plan=image.plan_hub,
        recognises=_never,
    ),
    Source(
        name="fashion-mnist",
        tasks=("image", "fashion-mnist"),
        says="the four .gz files of Fashion-MNIST, by default those of Debian's dataset-fashion-mnist",
        plan=fashion_mnist.plan,
        recognises=fashion_mnist.recognises,
        usual=True,
        makes="fashion-mnist",
    ),
    Source(
        name="bible",
        tasks=("text", "bible-books"),
        says="bible.data with the King James Version, by default that of Debian's bible-kjv-text",
        plan=passages.plan_bible,
        recognises=corpora.recognises_bible,
        parameters=("length",),
        seeded=True,
        usual=True,
        makes="bible-books",
    ),
    Source(
        name="bible",
        tasks=("retrieval", "bible-pairs"),
        says="bible.data with the King James Version, by default that of Debian's bible-kjv-text",
        plan=passages.plan_bible,
        recognises=corpora.recognises_bible,
        parameters=("length", *SPLITS),
        seeded=True,
        usual=True,
        makes="bible-pairs",
    ),
    Source(
        name="brown",
        tasks=("text", "brown-genres"),
        says="a folder with the Brown corpus, ca01 … cr09",
        plan=passages.plan_brown,
        recognises=corpora.recognises_brown,
        parameters=("length",),
        seeded=True,
        makes="brown-genres",
    ),
    Source(
        name="brown",
        tasks=("retrieval", "brown-pairs"),
        says="a folder with the Brown corpus, ca01 … cr09",
        plan=passages.plan_brown,
        recognises=corpora.recognises_brown,
        parameters=("length", *SPLITS),
        seeded=True,
        makes="brown-pairs",
    ),
    Source(
        name="drawn",
        tasks=("probe",),
        says="drawn by --seed",
        plan=probe.plan,
        parameters=(*SPLITS, *(field.name for field in fields(probe.ProbeRule))),
        seeded=True,
    ),
)


def sources_of(task: Task) -> list[Source]:
    """The sources of a task's data, in the order in which they are tried."""
    return [source for source in SOURCES if task.name in source.tasks]


def find_source(task: Task, origin: str | None, name: str | None = None) -> Source:
    """The source for a task, selected by a place to read from, a name, both or neither.

    Parameters
    ----------
    task : Task
    origin : str, optional
        A file, a folder, or the name of a data set on the Hugging Face Hub.
    name : str, optional
        Of the source.

    Returns
    -------
    Source

    Raises
    ------
    ValueError
        If there is none; the message lists the sources of the task.
    FileNotFoundError
        If `origin` does not exist.
    """
    ways = sources_of(task)
    listed = "; ".join(f"{way.name} ({way.says})" for way in ways)
    if name is not None:
        named = [way for way in ways if way.name == name]
        if not named:
            raise ValueError(f"There is no source {name!r} of {task.name}. Its sources are: {listed}.")
        if origin is None and named[0].recognises is not None and not named[0].usual:
            raise ValueError(f"The source {name} of {task.name} reads files: name them with --from.")
        if origin is not None and named[0].recognises is None:
            raise ValueError(f"The source {name} of {task.name} reads no files: leave out --from, or --source.")
        return named[0]
    own = [way for way in ways if way.makes in (None, task.name)]
    if origin is None:
        for way in own:
            if way.recognises is None or way.usual:
                return way
        raise ValueError(f"{task.name} is read from files: name them with --from. Its sources are: {listed}.")
    path = Path(origin).expanduser()
    if not path.exists():
        named = [way for way in ways if way.name == "hub"]
        if named and hub.is_name(origin):
            return named[0]
        raise FileNotFoundError(f"There is no {path}. The sources of {task.name} are: {listed}.")
    for way in own:
        if way.recognises is not None and way.recognises(path, task):
            return way
    raise ValueError(f"{path} has none of the formats of {task.name}. Its sources are: {listed}.")
