"""Articles of a MediaWiki dump: the text of their markup, as a reader sees it.

The markup is parsed by mwparserfromhell, whose time is not bounded: it starts again after each bracket that is not
closed. So `balanced` removes these first, in linear time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

_SITEINFO = 1 << 20  # bytes at the begin of a dump in which its names are
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^>]*>([^<]*)</namespace>')
_HIDDEN = ("-2", "6", "14")  # keys of namespaces to which links are pictures, sounds and categories
_ENGLISH = ("media", "file", "image", "category")  # understood by every wiki
_PICTURE = re.compile(r"[^:]+:[^|]*\.(?:jpe?g|png|svg|gif|tiff?|webp|og[agv]|webm|mp3|wav|pdf|djvu)\s*$", re.IGNORECASE)
# Links to other languages' articles: the codes of Wikipedia's languages
_LANGUAGES = frozenset(
    """aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar
    bat-smg bbc bcl be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch
    cho chr chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dv dz ee el eml en eo es et eu ext fa
    fat ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha
    hak haw he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo jv ka kaa kab
    kbd kbp kcg kg kge ki kj kk kl km kn ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo
    ln lo lrc lt ltg lv lzh mad mai map-bms mdf mg mh mhr mi min mk ml mn mni mnw mos mr mrj ms mt mus mwl my myv mzn
    na nah nan nap nb nds nds-nl ne new ng nia nl nn no nov nqo nr nrm nso nup nv ny oc olo om or os pa pag pam pap pcd
    pcm pdc pfl pi pih pl pms pnb pnt ps pt pwn qu rki rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw sa sah sat sc
    scn sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw syl szl szy ta
    tay tcy tdd te tet tg th ti tig tk tl tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls
    vo vro wa war wo wuu xal xh xmf yi yo yue za zea zgh zh zh-classical zh-cn zh-min-nan zh-tw zh-yue zu""".split()  # noqa: SIM905
)
_TAGS = ("ref", "table", "gallery", "math", "timeline", "score", "imagemap", "syntaxhighlight", "source", "code", "pre")
# Under these headings are lists of links and sources.
_APPARATUS = (
    *("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes"),
)
_PROSE = re.compile(r"[.!?…。！？]['\"”’»)\]]*\s*$")
_MAGIC_WORD = re.compile(r"__([^\W\d_]+(?:_[^\W\d_]+)*)__")
_MAGIC_WORDS = frozenset(
    *(["notoc", "forcetoc", "toc", "noeditsection", "newsectionlink", "nonewsectionlink", "nogallery", "hiddencat",
       "index", "noindex", "staticredirect", "disambig", "nocontentconvert", "notitleconvert", "expectunusedcategory"],)
)  # fmt: skip

# Templates of which the arguments are no words of the sentence: sources, footnotes, pronunciation, coordinates
_UNSAID = re.compile(
    r"(?:cit[ea]|sfn|harv|efn|refn|ipa|pron|audio|respell|coord|flagicon|anchor|clear|toc|main|see|further|about"
    r"|redirect|hatnote|distinguish|reflist|portal|commons|authority|short description|use |fact|clarify|when|who"
    r"|dubious|better source|dead link|update|expand|defaultsort|displaytitle)|(?:r|rp|ref|cn|fr|for)$"
)
_LAST_ARGUMENT = re.compile(r"lang$|langx$|transl|script$|color$|colour$|font color$")
_FIRST_ARGUMENT = re.compile(r"lang-|ill|interlanguage|nihongo|abbr|tooltip|val$|hover|sortname$|frac$")
_JOINING = ("to", "and", "or", "by", "x", "-", "–", "to(-)", "and(-)", "+/-", "±")  # between two measures
_SPOKEN = {"circa": "c. ", "c.": "c. ", "ca": "c. ", "as of": "As of "}
_TRANSFORMED = ("formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap")
_BLANK = {"snd": " – ", "spaced ndash": " – ", "ndash": "–", "mdash": "—", "·": " · ", "nbsp": " ", "!": "|"}

# Marks in the text that is being put together: around what a template says, an item of a list, a heading
_BEGIN, _END, _ITEM, _HEADING = "\x01", "\x02", "\x03", "\x04"
_FILLED = re.compile(f"{_BEGIN}[^{_END}]*{_END}")
_WORD = re.compile(r"\w")
_HOLE = f"(?:{_BEGIN}{_END})"
_HOLES = (
    (re.compile(rf"\((?:{_HOLE}|[ ,;:])*{_HOLE}(?:{_HOLE}|[ ,;:])*\)"), ""),  # brackets with nothing else
    (re.compile(rf"\( ?{_HOLE}[ ,;:]*"), "("),
    (re.compile(rf"[ ,;:]*{_HOLE} ?(?=[.,;:!?)])"), ""),
    (re.compile(_HOLE), ""),
)


@dataclass(frozen=True)
class Site:
    """Names of a wiki.

    Parameters
    ----------
    hidden : frozenset of str
        Namespaces, in lower case, to which links are no words of the article.
    """

    hidden: frozenset[str] = frozenset(_ENGLISH)


def read_site(file: IO[bytes]) -> Site:
    """The names that a dump begins with; English ones where it has none."""
    head = file.read(_SITEINFO).partition(b"</siteinfo>")[0].decode("utf-8", "replace")
    names = (unescape(name) for key, name in _NAMESPACE.findall(head) if key in _HIDDEN)
    return Site(frozenset((*_ENGLISH, *map(_folded, names))))


def article(page: str, site: Site, path: Path, offset: int) -> tuple[str, str]:
    """The text of a page of a dump, or why it has none.

    Parameters
    ----------
    page : str
        From ``<page>`` to ``</page>``.
    site : Site
    path : Path
    offset : int
        Where the page begins in the file, in bytes, for errors.

    Returns
    -------
    text : str
    why : str
        If the text is empty: "redirects", "pages that are no articles" or "articles without text".

    Raises
    ------
    ValueError
        If the page is not XML.
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        found = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}, byte {offset}: the page is not XML ({error}).") from error
    if found.findtext("ns", "0") != "0":
        return "", "pages that are no articles"
    if found.find("redirect") is not None:
        return "", "redirects"
    return plain(found.findtext("revision/text") or "", site), "articles without text"


def plain(markup: str, site: Site | None = None) -> str:
    """The sentences of wiki markup as a reader sees them: no tables, references, pictures or link lists.

    Of templates in a sentence the arguments are kept, which are mostly the words that they show; other templates are
    left out.

    Parameters
    ----------
    markup : str
    site : Site, optional
        Default English names.

    Raises
    ------
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError as error:
        raise ImportError("Reading Wikipedia dumps needs mwparserfromhell: pip install 'nip[pretrain]'") from error

    parsed = mwparserfromhell.parse(_settled(markup))
    said = "".join(_said(parsed.nodes, site or Site()))
    return "\n".join(_sections(_without_holes(line) for line in said.split("\n")))


def _said(nodes: Iterable[Any], site: Site) -> Iterator[str]:
    """The words of parsed markup, in one pass; the library's own `remove` takes quadratic time."""
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            yield _MAGIC_WORD.sub(_without_magic, str(node))
        elif isinstance(node, kinds.HTMLEntity):
            yield node.normalize()
        elif isinstance(node, kinds.Heading):
            title = "".join(_said(node.title.nodes, site)).strip()
            yield f"\n{_HEADING}{node.level}{title}\n"
        elif isinstance(node, kinds.Wikilink):
            title = str(node.title).strip()
            if not _is_hidden(title, site):
                yield from _said(node.text.nodes, site) if node.text else (title.removeprefix(":").lstrip(),)
        elif isinstance(node, kinds.ExternalLink) and node.title is not None:
            yield from _said(node.title.nodes, site)
        elif isinstance(node, kinds.Template):
            yield f"{_BEGIN}{_of_template(node, site)}{_END}"
        elif isinstance(node, kinds.Argument):
            yield "" if node.default is None else _words(node.default, site)
        elif isinstance(node, kinds.Tag):
            name = str(node.tag).strip().lower()
            if name in ("li", "dt", "dd"):
                yield f"\n{_ITEM}"
            elif name == "br":
                yield "\n"
            if name not in _TAGS and node.contents is not None:
                yield from _said(node.contents.nodes, site)


def _is_hidden(title: str, site: Site) -> bool:
    """Whether a link is a picture, a category, or the article in another language; a colon before it shows it."""
    prefix, colon, _ = title.partition(":")
    if not colon or not prefix.strip():
        return False
    prefix = _folded(prefix)
    return prefix in site.hidden or prefix in _LANGUAGES or _PICTURE.match(title) is not None


def _folded(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _without_magic(found: re.Match[str]) -> str:
    """Nothing for a magic word, in any language: those in capitals, and in scripts that have none."""
    word = found[1]
    return "" if word == word.upper() or word.lower() in _MAGIC_WORDS else found[0]


def _of_template(node: Any, site: Site) -> str:
    """The words that a template in a sentence shows: mostly its arguments without a name."""
    name, colon, value = str(node.name).strip().partition(":")
    kind = _folded(name)
    if kind in _BLANK:
        return _BLANK[kind]
    if kind.startswith("#"):
        return _of_condition(kind, value, node, site)
    if colon:
        return " ".join(value.split()) if kind in _TRANSFORMED and "{" not in value else ""
    if _UNSAID.match(kind):
        return ""
    arguments = [_words(each.value, site) for each in node.params if not each.showkey or str(each.name).strip() == "1"]
    arguments = [each for each in arguments if each]
    if kind in ("convert", "cvt") and len(arguments) > 1:
        return " ".join(arguments[: 4 if arguments[1] in _JOINING else 2])
    if kind == "frac" and len(arguments) > 1:
        return "/".join(arguments)
    if _LAST_ARGUMENT.match(kind):
        return arguments[1] if kind in ("lang", "langx") and len(arguments) > 1 else (arguments or [""])[-1]
    if _FIRST_ARGUMENT.match(kind):
        return (arguments or [""])[0]
    return _SPOKEN.get(kind, "") + " ".join(arguments) if arguments else ""


def _of_condition(kind: str, value: str, node: Any, site: Site) -> str:
    """What ``{{#if: …|yes|no}}`` shows; other functions cannot be evaluated without the wiki."""
    if kind != "#if":
        return ""
    choices = [_words(each.value, site) for each in node.params]
    return (choices[:1] if value.strip() else choices[1:2] or [""])[0] if choices else ""


def _words(code: Any, site: Site) -> str:
    """The text of parsed markup in one line, without marks."""
    said = "".join(_said(code.nodes, site)).translate(dict.fromkeys(map(ord, (_BEGIN, _END, _ITEM, _HEADING))))
    return " ".join(said.split())


def _without_holes(line: str) -> str:
    """A line with the words of its templates; without them where it has no others, as with boxes and notices."""
    if _BEGIN not in line:
        return line
    bare = _FILLED.sub("", line)
    if _ITEM not in line and not _WORD.search(bare):
        return bare
    for hole, filling in _HOLES:
        line = hole.sub(filling, line)
    return line.replace(_BEGIN, "").replace(_END, "")


def _sections(lines: Iterable[str]) -> Iterator[str]:
    """The lines of an article, without lists and fragments under headings like "See also"."""
    apparatus, heading = 0, ""  # the level of such a heading; the heading as long as nothing under it is kept
    for line in lines:
        if line.startswith(_HEADING):
            level, title = int(line[1]), line[2:]
            if apparatus and level > apparatus:
                continue
            apparatus = level if level <= 2 and title.lower() in _APPARATUS else 0
            heading = title if apparatus else ""
            if not apparatus:
                yield title
            continue
        if apparatus and (line.startswith(_ITEM) or not _PROSE.search(line)):
            continue
        if heading:
            yield heading
            heading = ""
        yield line.replace(_ITEM, "")


# ---- brackets that are closed

_RAW = (
    "nowiki",
    "math",
    "pre",
    "source",
    "syntaxhighlight",
    "score",
    "timeline",
    "templatedata",
    "hiero",
    "graph",
    "chem",
    "ce",
)
_VOID = ("br", "hr", "img", "wbr", "references", "section", "nowiki")
_LINES = ("li", "dd", "dt", "p", "tr", "td", "th", "div")  # tags that begin a line
_DEEPEST = 30  # brackets within each other that are parsed
_TOKEN = re.compile(
    r"<!--|\[\[|\]\]|\]|\{\{|\}\}|^[ \t:*#;]*\{\|[^\n]*|^[ \t]*\|\}(?!\})|\[(?=(?:[a-z]{3,6}:)?//)|\n"
    r"|<(/?)([a-zA-Z][a-zA-Z0-9]*)\b[^<>]*>|<(?=/?[a-zA-Z])",
    re.MULTILINE,
)
_ROUNDS = 5
_BRACKETS = re.compile(r"[\[\]{}<>]")
_CLOSED_BY = {"]]": "[[", "}}": "{{", "]": "["}


def _settled(markup: str) -> str:
    """`balanced` markup of which no bracket was put together by removing others; without any if that does not end."""
    for _ in range(_ROUNDS):
        before, markup = markup, balanced(markup)
        if markup == before:
            return markup
    return _BRACKETS.sub(" ", markup)


def balanced(markup: str) -> str:
    """Wiki markup without brackets and tags that are not closed, or closed before what is in them, or too deep.

    Notes
    -----
    O(n) for n characters.

    Examples
    --------
    >>> balanced("[[a|b]] [[c {{d|<i>e}} f</b>")
    '[[a|b]] c {{d|e}} f'
    """
    removed: list[tuple[int, int, str]] = []  # begin, end, and what is there instead
    opened: list[tuple[str, int, int]] = []  # kind, begin, end
    number: Counter[str] = Counter()  # of the opened ones, by kind
    unclosed: set[str] = set()  # raw tags that have no end from here on
    place = 0
    while found := _TOKEN.search(markup, place):
        token, begin, place = found[0], found.start(), found.end()
        if token == "\n":
            while opened and opened[-1][0] == "[":  # an external link ends with its line
                removed.append((*_drop(opened, number)[1:], ""))
            continue
        if token == "<":  # of a tag without its ">"
            removed.append((begin, place, "&lt;"))
            continue
        if token == "]]" and opened and opened[-1][0] == "[":
            token, place = "]", begin + 1
        name = (found[2] or "").lower()
        if token == "<!--" or (name in _RAW and not found[1] and not token.endswith("/>")):
            end = _raw_end(markup, place, name, unclosed)
            if end < 0:
                removed.append((begin, place, ""))
            else:
                place = end
            continue
        if name:
            if token.endswith("/>") or name in _VOID:
                continue
            kind, closes = f"<{name}", bool(found[1])
        elif token.lstrip(" \t:*#;").startswith("{|"):
            kind, closes = "{|", False
        elif token.endswith("|}"):
            kind, closes = "{|", True
        else:
            kind, closes = _CLOSED_BY.get(token, token), token in _CLOSED_BY
        if not closes:
            opened.append((kind, begin, place))
            number[kind] += 1
        elif number[kind]:
            deep = len(opened) > _DEEPEST
            while (last := _drop(opened, number))[0] != kind:
                removed.append((last[1], last[2], _instead(last[0])))
            if deep:
                removed += [(last[1], last[2], ""), (begin, place, "")]
        elif kind != "[":
            removed.append((begin, place, ""))
    removed += [(begin, end, _instead(kind)) for kind, begin, end in opened]
    parts, done = [], 0
    for begin, end, instead in sorted(removed):
        parts += [markup[done:begin], instead]
        done = end
    return "".join([*parts, markup[done:]])


def _drop(opened: list[tuple[str, int, int]], number: Counter[str]) -> tuple[str, int, int]:
    last = opened.pop()
    number[last[0]] -= 1
    return last


def _instead(kind: str) -> str:
    """What replaces a tag that is not closed."""
    return "\n" if kind[1:] in _LINES else ""


def _raw_end(markup: str, begin: int, name: str, unclosed: set[str]) -> int:
    """Where a comment or a tag ends whose content is no markup; −1 if it does not."""
    if name in unclosed:
        return -1
    end = re.compile(rf"</{name}\s*>" if name else "-->", re.IGNORECASE).search(markup, begin)
    if end is None:
        unclosed.add(name)
        return -1
    return end.end()
