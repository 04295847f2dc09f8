import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.data.corpus.files import Piece, find_form
from nip.data.corpus.normalize import normalize
from nip.data.corpus.read import documents
from nip.data.corpus.wikitext import Site, article, plain, read_site

PAGE = "<page><title>A</title><ns>{ns}</ns>{more}<revision><text>{text}</text></revision></page>"


@pytest.mark.parametrize(
    ("markup", "said"),
    [
        ("'''Alan''' was a [[logic|logician]] and [[mathematician]].", "Alan was a logician and mathematician."),
        ("{{Infobox|name=X {{nested|a}}}}One<ref>Cited {{c}}</ref> [[File:a.jpg|thumb|A [[b]] c]]two.", "One two."),
        ("He &amp; she<!-- no -->.\n{| class='x'\n| cell\n|}\nEnd", "He & she.\nEnd"),
        ("Text [http://a.org here], bare http://a.org\n[[Category:B]][[de:Alan]]", "Text here, bare"),
        ("Lead\n== Life ==\n* one\n* ''two''\n== References ==\n* book\n=== more ===\nx", "Lead\nLife\none\ntwo"),
        ("A<br>b <small>c</small> <math>x^2</math><gallery>\na.jpg|b\n</gallery>", "A\nb c"),
    ],
)
def test_what_is_said(markup, said):
    assert normalize(plain(markup)) == said


def test_pages():
    where = (Site(), Path("dump.xml"), 0)
    assert article(PAGE.format(ns=0, more="", text="a &lt;b&gt;c&lt;/b&gt;"), *where)[0] == "a c"
    assert article(PAGE.format(ns=1, more="", text="talk"), *where) == ("", "pages that are no articles")
    redirect = PAGE.format(ns=0, more='<redirect title="B" />', text="#REDIRECT [[B]]")
    assert article(redirect, *where) == ("", "redirects")
    assert article("<page><ns>0</ns></page>", *where) == ("", "articles without text")


def test_long_pages_take_time_in_proportion():
    assert len(plain("[[a|b]] {{c}} <ref>d</ref>\n" * 3_000).split()) == 3_000


GERMAN = """<mediawiki xml:lang="de">
  <siteinfo>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
{pages}</mediawiki>
"""


def test_names_of_a_wiki_are_its_own():
    site = read_site(BytesIO(GERMAN.format(pages="").encode()))
    markup = "[[Datei:a.jpg|mini|Ein Bild]]Der [[Fluss]].\n[[Kategorie:Flüsse]] [[Medium:a.ogg|hören]] [[File:b.jpg|x]]"
    assert normalize(plain(markup, site)) == "Der Fluss."
    assert "Ein Bild" in plain("[[Datei:a|mini|Ein Bild]]")  # of a wiki that has no such namespace


@pytest.mark.parametrize("head", ["", '<?xml version="1.0" encoding="utf-8"?>\n', "\ufeff"])
def test_a_dump_is_read_whatever_precedes_its_root(tmp_path, head):
    pages = "".join(
        f"<page><title>P{i}</title><ns>{ns}</ns><revision><text>[[Datei:a|mini|B]]Text {i}.</text></revision></page>\n"
        for i, ns in enumerate([0, 0, 1, 0])
    )
    path = tmp_path / "dump"
    path.write_text(head + GERMAN.format(pages=pages), "utf-8")
    left_out = Counter()
    found = list(documents(Piece(str(path), find_form(path)), left_out=left_out))
    assert found == ["Text 0.", "Text 1.", "Text 3."]
    assert left_out == {"pages that are no articles": 1}


@pytest.mark.parametrize(
    ("markup", "said"),
    [
        ("She was in [[CSI: Miami]] and [[Ys: The Oath|a game]].", "She was in CSI: Miami and a game."),
        ("See [[:Category:Cats|the cats]] and [[:fr:Paris]].", "See the cats and fr:Paris."),
        ("__NOTOC__ Text.__KEIN_INHALTSVERZEICHNIS__", "Text."),
        ("A __dunder__ and snake__case__name.", "A __dunder__ and snake__case__name."),
        ("{{DEFAULTSORT:X}}Text.", "Text."),
        ("She starred in {{film|Alien}} and in {{film|Brazil}}.", "She starred in Alien and in Brazil."),
        ("It is {{convert|5|km|mi}} long.", "It is 5 km long."),
        ("The word {{lang|fr|bonjour}} means hello.", "The word bonjour means hello."),
        ("He ({{IPA|/hi/}}) spoke{{cite web|url=x}}, {{sfn|A|1}} then left.", "He spoke, then left."),
        ("{{Infobox person\n| name = X\n}}\nShe spoke.", "She spoke."),
        ("{{#if: x|yes|no}} or {{#if: |yes|no}}", "yes or no"),
        ("Lead.\n== See also ==\n* [[A]]\n== Later ==\nHe went on.", "Lead.\nLater\nHe went on."),
        (
            "Lead.\n== Bibliography ==\nHer first novel told of the sea.",
            "Lead.\nBibliography\nHer first novel told of the sea.",
        ),
        ("Lead.\n== References ==\n<references/>\n=== Notes ===\n* a book", "Lead."),
    ],
)
def test_the_words_of_a_reader_are_kept(markup, said):
    assert normalize(plain(markup)) == said


@pytest.mark.parametrize(
    "part", ["[[a|", "{{a|", "<i>", "[[", "{|", "<ref>", "[http://a ", "<!-- ", "{{a}} [[", "{<b>{a|", "<<b>i>"]
)
def test_brackets_that_are_not_closed_take_time_in_proportion(part):
    began = time.perf_counter()
    plain(part * 30_000)
    assert time.perf_counter() - began < 20  # without `balanced` minutes to hours


@given(
    st.lists(
        st.sampled_from(["[[", "]]", "{{", "}}", "|", "<i>", "</i>", "<!--", "-->", "a", "[http://b", "]", "[", "{"])
    )
)
def test_no_word_is_lost_to_brackets_that_are_not_closed(parts):
    """Words outside of what is closed; the parser alone would leave brackets in the text."""
    markup = "".join(parts)
    assert normalize(plain(f"First. {markup}")).startswith("First.")
