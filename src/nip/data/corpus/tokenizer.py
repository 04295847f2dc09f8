"""The tokenizer of a corpus: an existing one, or a WordPiece trained on the corpus itself; and a fast encoder.

It is saved next to the shards as a folder that ``AutoTokenizer.from_pretrained`` opens: ``tokenizer.json`` and
``tokenizer_config.json``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.data.masking import Vocabulary
from nip.ownership import move_into, remove_temporary, temporary_name
from nip.runs.folder import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
TRAINED_ON = 1 << 28  # maximum number of characters: more hardly change the vocabulary
_ALPHABET = 1000  # most frequent characters that are in a trained vocabulary
_CONFIG, _TOKENIZER = "tokenizer_config.json", "tokenizer.json"
# Runs without a space, a line end or ASCII punctuation, and single punctuation marks. The library handles the rest:
# other spaces, other punctuation, characters that are words.
_PIECE = re.compile(r"[^ \n!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
# Training takes a time that grows with the square of a word. WordPiece knows no word of more than 100 characters.
_LONGEST_WORD = 1000
_LONG_PIECE = re.compile(rf"[^ \n!-/:-@\[-`{{-~]{{{_LONGEST_WORD + 1},}}")
_KNOWN = 1 << 21  # characters of the cached pieces: some 50 MB

Array = NDArray[Any]


def train_wordpiece(texts: Callable[[], Iterable[str]], size: int, *, lower_case: bool) -> Tokenizer:
    """Train a WordPiece like BERT's.

    Parameters
    ----------
    texts : callable
        Returns the texts; it is called twice.
    size : int
        Maximum size of the vocabulary, special tokens included.
    lower_case : bool
        Convert to lower case and remove accents.

    Returns
    -------
    Tokenizer
        The same for the same texts.

    Raises
    ------
    ValueError
        If `size` is too small for the characters of the texts, or there is no text.

    Notes
    -----
    The library numbers the characters within words in an order that differs from run to run and breaks ties by these
    numbers; so they are passed to it, in a fixed order, as special tokens of the training.
    """
    library = _library()
    tokenizer = _wordpiece(library.models.WordPiece(unk_token=SPECIAL["unk"]), lower_case)
    alphabet = _alphabet(tokenizer, texts())
    if not alphabet:
        raise ValueError("There is no text to train a tokenizer on.")
    first = [*SPECIAL.values(), *(f"##{character}" for character in alphabet)]
    least = len(first) + len(alphabet)
    if size < least:
        raise ValueError(
            f"--train-tokenizer must be at least {least} for the characters of this text. Got {size} instead."
        )
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    divide = _division(tokenizer)
    tokenizer.train_from_iterator((_without_long_words(divide, text) for text in texts()), trainer=trainer)
    return _from_vocabulary(tokenizer.get_vocab(with_added_tokens=True), lower_case)


def existing_tokenizer(name: str, *, lower_case: bool) -> tuple[Tokenizer, dict[str, Any]]:
    """An existing tokenizer, and the content of its ``tokenizer_config.json``.

    Parameters
    ----------
    name : str
        A folder with ``tokenizer.json`` or ``vocab.txt``, a ``vocab.txt``, or a name on the Hugging Face Hub.
    lower_case : bool
        Only for a ``vocab.txt``.

    Raises
    ------
    ValueError
        If it is not a tokenizer, not available, or lacks a token for padding, begin, end or mask.
    """
    path = Path(name).expanduser()
    if path.is_file():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a vocabulary: it is not encoded in UTF-8.") from error
        missing = [token for token in SPECIAL.values() if token not in lines]
        if missing:
            raise ValueError(f"{path} is not a vocabulary of BERT's: it lacks {', '.join(missing)}.")
        repeated = [token for token, n in Counter(lines).items() if n > 1]
        if repeated:
            raise ValueError(f"{path} is not a vocabulary: the line {repeated[0]!r} is repeated.")
        return _from_vocabulary({token: i for i, token in enumerate(lines)}, lower_case), wordpiece_config(lower_case)
    return _of_transformers(name)


def save_tokenizer(tokenizer: Tokenizer, config: dict[str, Any], folder: Path) -> None:
    """Write the folder of a tokenizer, atomically.

    Parameters
    ----------
    tokenizer : Tokenizer
    config : dict
        The contents of ``tokenizer_config.json``.
    folder : Path
    """
    partial = temporary_name(folder)
    partial.mkdir()
    (partial / _TOKENIZER).write_text(tokenizer.to_str(pretty=False), "utf-8")
    write_json(partial / _CONFIG, config, indent=1)
    folder.mkdir(exist_ok=True)
    for name in (_TOKENIZER, _CONFIG):  # the last one completes it
        move_into(partial / name, folder / name)
    remove_temporary(partial)


def is_saved(folder: Path) -> bool:
    """Whether `save_tokenizer` has written the folder completely."""
    return (folder / _CONFIG).is_file()


def load_tokenizer(folder: Path) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer of a corpus and its special tokens.

    Raises
    ------
    ValueError
        If a special token is missing.
    """
    tokenizer = _library().Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = json.loads((folder / _CONFIG).read_text("utf-8"))
    return tokenizer, _vocabulary(tokenizer, config, str(folder))


def wordpiece_config(lower_case: bool) -> dict[str, Any]:
    """The content of ``tokenizer_config.json`` of a WordPiece like BERT's."""
    tokens = {f"{name}_token": token for name, token in SPECIAL.items()}
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case, **tokens}


def _alphabet(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The most frequent characters of texts, sorted; ties are broken by code point."""
    counts = np.zeros(0x110000, np.int64)
    gathered: list[str] = []
    size = 0

    def count() -> None:
        codes = np.frombuffer("".join(gathered).encode("utf-32-le"), np.uint32)
        counts.__iadd__(np.bincount(codes, minlength=counts.size))

    for text in texts:
        gathered.append(tokenizer.normalizer.normalize_str(text))
        size += len(text)
        if size > 1 << 22:
            count()
            gathered, size = [], 0
    count()
    order = np.lexsort((np.arange(counts.size), -counts))
    common = [chr(code) for code in order[: _ALPHABET + 100].tolist() if counts[code] and not chr(code).isspace()]
    return sorted(common[:_ALPHABET])


def _division(tokenizer: Tokenizer) -> Callable[[str], list[Any]]:
    """The function that divides a text into words; it can be called while the tokenizer itself is locked."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return lambda text: list(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))


def _without_long_words(divide: Callable[[str], list[Any]], text: str) -> str:
    """A text without what words of more than twice `_LONGEST_WORD` characters have beyond their begin and end.

    The tokenizer itself takes quadratic time to divide a long run of characters, so it gets slices of it.
    """

    def shortened(found: re.Match[str]) -> str:
        run, kept = found[0], [""]
        for begin in range(0, len(run), _LONGEST_WORD):
            part = run[begin : begin + _LONGEST_WORD]
            if len(part) == _LONGEST_WORD and len(divide(part)) == 1:
                kept.append("")
            else:
                kept[-1] += part
        return " ".join(filter(None, kept))

    return _LONG_PIECE.sub(shortened, text)


def _from_vocabulary(vocabulary: dict[str, int], lower_case: bool) -> Tokenizer:
    library = _library()
    tokenizer = _wordpiece(library.models.WordPiece(vocab=vocabulary, unk_token=SPECIAL["unk"]), lower_case)
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    cls, sep = ((SPECIAL[name], vocabulary[SPECIAL[name]]) for name in ("cls", "sep"))
    tokenizer.post_processor = library.processors.BertProcessing(sep, cls)
    return tokenizer


def _wordpiece(model: Any, lower_case: bool) -> Tokenizer:
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def _library() -> Any:
    try:
        return import_module("tokenizers")
    except ImportError as error:
        raise ImportError("Corpora need tokenizers: pip install 'nip[pretrain]'") from error


def _of_transformers(name: str) -> tuple[Tokenizer, dict[str, Any]]:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError("Reading a tokenizer by name needs transformers: pip install 'nip[pretrain]'") from error
    try:
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"There is no tokenizer {name}, neither in a folder nor on the Hugging Face Hub: {first}"
        ) from error
    tokenizer = getattr(found, "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"The tokenizer {name} has no fast version (tokenizer.json), which a corpus needs.")
    tokens = {f"{key}_token": getattr(found, f"{key}_token", None) for key in SPECIAL}
    tokens["cls_token"] = tokens["cls_token"] or found.bos_token
    tokens["sep_token"] = tokens["sep_token"] or found.eos_token
    config: dict[str, Any] = {
        "tokenizer_class": type(found).__name__.removesuffix("Fast"),
        **{key: str(value) for key, value in tokens.items() if value is not None},
    }
    if getattr(found, "do_lower_case", None) is not None:
        config["do_lower_case"] = bool(found.do_lower_case)
    _vocabulary(tokenizer, config, name)
    return tokenizer, config


def _vocabulary(tokenizer: Tokenizer, config: dict[str, Any], name: str) -> Vocabulary:
    ids = {}
    for key in ("pad", "cls", "sep", "mask"):
        token = config.get(f"{key}_token")
        number = None if token is None else tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"The tokenizer {name} has no {key} token, which masked samples need.")
        ids[key] = number
    added = tokenizer.get_added_tokens_decoder().items()
    unknown = tokenizer.token_to_id(config.get("unk_token") or "")
    special = {*ids.values(), *(number for number, token in added if token.special)}
    special |= set() if unknown is None else {unknown}
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Vocabulary(size=size, special=tuple(sorted(special)), **ids)


def count_unknown(tokenizer: Tokenizer, ids: Array) -> int:
    """How many of the ids are the tokenizer's id of what its vocabulary lacks; 0 if it has no such id."""
    model = tokenizer.model
    unknown = getattr(model, "unk_id", None)  # Unigram's
    if unknown is None and getattr(model, "unk_token", None) is not None:
        unknown = tokenizer.token_to_id(model.unk_token)
    return 0 if unknown is None else int((ids == unknown).sum())


class Encoder:
    """Returns what ``tokenizer.encode_batch_fast(texts, add_special_tokens=False)`` returns, as arrays.

    BERT's tokenizers treat each run between spaces and punctuation on its own, so its ids are computed once and cached;
    the `tokenizers` library takes some five times as long for a word.

    Parameters
    ----------
    tokenizer : Tokenizer
        Without padding or truncation. One that is not like BERT's gets full texts.
    kind : dtype
        Of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, kind: np.dtype[Any]) -> None:
        self._tokenizer = tokenizer
        self._kind = kind
        self._by_word = _is_like_bert(tokenizer)
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._known: dict[str, bytes] = {}
        self._size = 0

    def __call__(self, texts: list[str]) -> Iterator[Array]:
        """The ids of each text, without special tokens around them."""
        parts = [self._pieces(text) for text in texts]
        new = list(set().union(*parts).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        for piece, encoding in zip(new, encodings, strict=True):
            self._known[piece] = np.array(encoding.ids, self._kind).tobytes()
        self._size += sum(map(len, new))
        for pieces in parts:
            yield np.frombuffer(b"".join(map(self._known.__getitem__, pieces)), self._kind)
        if self._size > _KNOWN:
            self._known.clear()
            self._size = 0

    def _pieces(self, text: str) -> list[str]:
        """A text in pieces that can be encoded independently."""
        if self._by_word and not any(token in text for token in self._added):
            return _PIECE.findall(text)
        return [text]


def _is_like_bert(tokenizer: Tokenizer) -> bool:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        # a normalized one is matched in the normalized text
        and not any(token.normalized for token in tokenizer.get_added_tokens_decoder().values())
    )
