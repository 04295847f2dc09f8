"""The tasks that a model can be trained on: names, lengths, vocabularies and splits. Adding one is adding an entry."""

from __future__ import annotations

from dataclasses import dataclass

from nip.data import listops

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Task:
    """What a model must know of a task before it sees an example.

    Parameters
    ----------
    name : str
        Its name on the command line, and of its folder.
    max_length : int
        Tokens kept of an example; longer ones lose their tail.
    vocab_size : int
        Rows of the embedding table; token ids are below it and 0 is padding.
    n_classes : int
        Labels are 0 … n_classes − 1.
    pair : bool
        Whether an example is two sequences (with one label) instead of one.
    sizes : tuple of int
        Examples in the train, dev and test splits of the official setting.
    tokens : tuple of str
        The name of every token id.
    """

    name: str
    max_length: int
    vocab_size: int
    n_classes: int
    pair: bool
    sizes: tuple[int, int, int]
    tokens: tuple[str, ...]

    @property
    def padded_length(self) -> int:
        """The power of two that sequences are padded to in the original's setting: 2048 for ListOps."""
        return 1 << (self.max_length - 1).bit_length()


TASKS: dict[str, Task] = {
    # 15 tokens and padding are used; the original's embedding table has 32 rows
    "listops": Task("listops", 2000, 32, 10, False, (96000, 2000, 2000), listops.TOKENS),
}


def find_task(name: str) -> Task:
    """The task of that name, or a ValueError that lists the names there are.

    Examples
    --------
    >>> find_task("listops").padded_length
    2048
    """
    if name not in TASKS:
        raise ValueError(f"There is no task {name!r}. The tasks are {', '.join(TASKS)}.")
    return TASKS[name]
