"""Articles of a MediaWiki dump as plain text: one ``<page>`` at a time, its markup parsed by mwparserfromhell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# Links to these are pictures, categories and other languages, no words of the article.
_NOT_SAID = re.compile(r"^\s*:?\s*(?:File|Image|Media|Category|[a-z]{2,3}(?:-[a-z]+)?)\s*:", re.IGNORECASE)
_TAGS = ("ref", "table", "gallery", "math", "timeline", "score", "imagemap", "syntaxhighlight", "source", "code", "pre")
# Whatever follows these headings is lists of links.
_TAIL = ("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes")


def article(page: str, path: Path, offset: int) -> str:
    """The text of a page of a dump; nothing of redirects and of pages that are no articles.

    Parameters
    ----------
    page : str
        From ``<page>`` to ``</page>``.
    path : Path
    offset : int
        Where it begins in the file, for messages.

    Raises
    ------
    ValueError
        If the page is no XML.
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        found = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}, byte {offset}: the page is no XML ({error}).") from error
    if found.findtext("ns", "0") != "0" or found.find("redirect") is not None:
        return ""
    return plain(found.findtext("revision/text") or "")


def plain(markup: str) -> str:
    """What a reader of wiki markup sees of its sentences: no templates, tables, references, pictures and link lists.

    Raises
    ------
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError as error:
        raise ImportError("Reading Wikipedia dumps needs mwparserfromhell: pip install 'nip[pretrain]'") from error

    try:
        return "".join(_said(mwparserfromhell.parse(markup).nodes))
    except mwparserfromhell.parser.ParserError:
        return ""  # one page in millions whose markup is beyond it


def _said(nodes: Iterable[Any]) -> Iterator[str]:
    """The words of parsed markup, in one pass; the library's own `remove` takes quadratic time."""
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            yield str(node)
        elif isinstance(node, kinds.HTMLEntity):
            yield node.normalize()
        elif isinstance(node, kinds.Heading):
            title = "".join(_said(node.title.nodes)).strip()
            if node.level <= 2 and title.lower() in _TAIL:
                return
            yield f"\n{title}\n"
        elif isinstance(node, kinds.Wikilink) and not _NOT_SAID.match(str(node.title)):
            yield from _said((node.text or node.title).nodes)
        elif isinstance(node, kinds.ExternalLink) and node.title is not None:
            yield from _said(node.title.nodes)
        elif isinstance(node, kinds.Tag):
            name = str(node.tag).strip().lower()
            if name in ("br", "li", "dt", "dd"):
                yield "\n"
            if name not in _TAGS and node.contents is not None:
                yield from _said(node.contents.nodes)
