import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nip.data.corpus.normalize import UNICODE_FORMS, normalize, pieces, sentences

AWKWARD = st.one_of(
    st.text(st.sampled_from("a \n\ufffd")),
    st.text(st.sampled_from("aé \n\u200b")),
    st.text(st.sampled_from("ab \n\t\r\0\x07\u00ad\u200b\u2060\ufeff\ufffd\u0301\u2028\u200d\ud800ﬁ")),
    st.text(st.characters(codec=None)),
)


def by_characters(text, form):
    """The rule, one character after the other."""
    text = unicodedata.normalize(form, text.replace("\ufffd", ""))
    seen = [c for c in text if c.isspace() or (unicodedata.category(c) not in ("Cc", "Cs") and c not in INVISIBLE)]
    lines = [" ".join(line.split()) for line in unicodedata.normalize(form, "".join(seen)).split("\n")]
    return "\n".join(line for line in lines if line)


INVISIBLE = "\u00ad\u200b\u2060\ufeff\ufffd"


@given(AWKWARD, st.sampled_from(UNICODE_FORMS))
@example("a  b", "NFC")
@example("a\0\u0301", "NFC")
@example("a \nb", "NFC")
@example("a\n b", "NFC")
@example("a\n\nb", "NFC")
def test_follows_the_rule(text, form):
    assert normalize(text, form) == by_characters(text, form)


@given(AWKWARD, st.sampled_from(UNICODE_FORMS))
def test_is_settled_and_fit_for_storing(text, form):
    found = normalize(text, form)
    assert normalize(found, form) == found
    assert "\n\n" not in found and "  " not in found and found == found.strip()
    found.encode()  # no halves of characters are left


@given(AWKWARD, st.integers(1, 12))
def test_pieces_hold_the_text(text, longest):
    text = normalize(text)
    found = list(pieces(text, longest))
    assert all(0 < len(piece) <= longest for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


SPOKEN = st.text(st.sampled_from('aAжЖ漢ب5 .!?。！”"»(—…\n')).map(normalize)


@given(st.one_of(AWKWARD, SPOKEN))
def test_sentences_hold_the_text(text):
    text = normalize(text)
    found = sentences(text)
    assert all(found)
    assert "".join(" ".join(found).split()) == "".join(text.split())
    assert sentences("\n".join(found)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is. It was.", ["It is.", "It was."]),
        ("Mr. Fox saw J. Doe.", ["Mr. Fox saw J. Doe."]),
        ("He said “Go!” Then he went (Alone.) And so on.", ["He said “Go!”", "Then he went (Alone.)", "And so on."]),
        ("At 3.14 p.m. it rained", ["At 3.14 p.m. it rained"]),
        ("It is. J. Doe came.", ["It is.", "J. Doe came."]),
        ("the road 22 . the window ! mr. fox ran .", ["the road 22 .", "the window !", "mr. fox ran ."]),
        ("«Он шёл.» Потом ушёл. А. С. Пушкин", ["«Он шёл.»", "Потом ушёл.", "А. С. Пушкин"]),
        ("путник шёл. он видел дом.", ["путник шёл.", "он видел дом."]),
        ("他来了。“为什么？！”她走了……然后。", ["他来了。", "“为什么？！”", "她走了……然后。"]),
        ("これはペンです。それは？　はい", ["これはペンです。", "それは？", "はい"]),
        ("مرحبا بالعالم. كيف حالك؟ أنا بخير.", ["مرحبا بالعالم.", "كيف حالك؟", "أنا بخير."]),
        ("यह घर है। वह पेड़ है।", ["यह घर है।", "वह पेड़ है।"]),
        ("Ő jött. Ő ment. ¿Qué? Sí.", ["Ő jött.", "Ő ment.", "¿Qué?", "Sí."]),
        ("It was approx. five. Then six.", ["It was approx. five.", "Then six."]),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(normalize(text)) == expected
