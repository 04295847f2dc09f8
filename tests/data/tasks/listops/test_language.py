"""The evaluator against a recursive one on the official form, and the rule's limits."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data.tasks.listops.language import LARGEST, TOKENS, Rule, decode, encode, evaluate

# A tree is a digit or (operator, list of trees).
TREES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(["[MIN", "[MAX", "[MED", "[SM"]), st.lists(inner, min_size=1, max_size=6)),
    max_leaves=40,
)


def worth(tree):
    if isinstance(tree, int):
        return tree
    operator, arguments = tree
    values = [worth(argument) for argument in arguments]
    return {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}[
        operator
    ](values)


def official(tree):
    """As Long Range Arena writes it: one application after the other, each in parentheses."""
    if isinstance(tree, int):
        return str(tree)
    text = tree[0]
    for argument in tree[1]:
        text = f"( {text} {official(argument)} )"
    return f"( {text} ] )"


@given(TREES)
@settings(deadline=None)
def test_the_evaluator_agrees_with_recursion_over_trees(tree):
    tokens = encode(official(tree))
    assert evaluate(tokens) == worth(tree)
    assert evaluate(tokens.tolist()) == worth(tree)


@given(TREES)
@settings(deadline=None)
def test_text_and_tokens_translate_into_each_other(tree):
    plain = official(tree).replace("( ", "").replace(" )", "")
    assert decode(encode(official(tree))) == plain
    assert encode(plain).tolist() == encode(official(tree)).tolist() == encode(plain.replace("]", "X")).tolist()


def test_token_ids_never_change():
    assert TOKENS == ("", "[MIN", "[MAX", "[MED", "[SM", "]", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert encode("[MIN [MAX [MED [SM 0 9 ] ] ] X").tolist() == [1, 2, 3, 4, 6, 15, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MED 1 2 ]", 1),
        ("[MED 1 4 9 ]", 4),
        ("[MED 9 8 0 1 ]", 4),
        ("[SM 9 9 9 ]", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN [SM 5 5 ] 3 ]", 0),
    ],
)
def test_values_worked_by_hand(text, value):
    assert evaluate(encode(text)) == value


@pytest.mark.parametrize(
    "text", ["", "[MIN", "[MIN ]", "]", "1 2", "[MIN 1 ] 2", "[MIN 1 ] ]", "[MIN 1 [MAX 2 ]", "1 ]"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="not a ListOps expression"):
        evaluate(encode(text))


@pytest.mark.parametrize("token", [0, 16, -1])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(ValueError, match="not a token"):
        evaluate([1, token, 5])


def test_unknown_text_and_ids_are_refused():
    with pytest.raises(ValueError, match=r"no token '\[FIRST'. Its tokens are \[MIN "):
        encode("[FIRST 1 2 ]")
    for ids in ([16], [-1, 3]):
        with pytest.raises(ValueError, match=r"must be in \[0, 16\)"):
            decode(ids)
    assert decode([]) == decode([0, 0]) == ""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_depth": 1}, "'max_depth' parameter of ListOps must be an integer of at least 2. Got 1"),
        ({"max_args": 1}, "'max_args'.* at least 2. Got 1"),
        ({"min_length": 0}, "'min_length'.* at least 1. Got 0"),
        ({"min_length": 10, "max_length": 11}, "'max_length'.* at least 12. Got 11"),
        ({"max_args": 2.0}, "'max_args'.* integer"),
        ({"max_args": LARGEST + 1}, "at most 1000000"),
        ({"max_depth": 3, "max_args": 2}, "'min_length' parameter of ListOps must be below 10, the length of the"),
    ],
)
def test_a_rule_out_of_range_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Rule(**parameters)


def test_a_rule_at_its_limit_is_taken():
    assert Rule(max_depth=3, max_args=2, min_length=9, max_length=11).min_length == 9  # the longest has 10 tokens
    assert Rule() == Rule(max_depth=10, max_args=10, min_length=500, max_length=2000)
