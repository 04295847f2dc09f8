from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from nip.report.html import render, tag

# A page is UTF-8 text; a carriage return or NUL is changed by every HTML parser.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=40)


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@given(texts, texts, texts)
def test_any_text_comes_back_as_text(inside, after, attribute):
    page = render(tag("div", inside, tag("b", inside), after, title=attribute))
    read = Reader(page)
    assert read.text == inside + inside + after
    assert read.tags == [("div", {"title": attribute}), ("b", {})]


def test_names_and_order():
    made = tag("label", None, "a", "b", tag("i"), "c", "d", class_="x", data_label=1, for_=None)
    assert render(made) == '<label class="x" data-label="1">ab<i></i>cd</label>'


def test_void_elements_and_raw_text():
    assert render(tag("meta", name="viewport")) == '<meta name="viewport">'
    assert render(tag("script", "1 < 2 && 3 > 2")) == "<script>1 < 2 && 3 > 2</script>"
