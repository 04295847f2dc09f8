from pathlib import Path

import pytest

from nip.data.text.normalising import normalise
from nip.data.text.wikipedia import article, plain

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
    assert normalise(plain(markup)) == said


def test_pages():
    where = (Path("dump.xml"), 0)
    assert article(PAGE.format(ns=0, more="", text="a &lt;b&gt;c&lt;/b&gt;"), *where) == "a c"
    assert article(PAGE.format(ns=1, more="", text="talk"), *where) == ""
    assert article(PAGE.format(ns=0, more='<redirect title="B" />', text="#REDIRECT [[B]]"), *where) == ""
    assert article("<page><ns>0</ns></page>", *where) == ""


def test_long_pages_take_time_in_proportion():
    assert len(plain("[[a|b]] {{c}} <ref>d</ref>\n" * 3_000).split()) == 3_000
