import dataclasses

import numpy as np
import pytest

import nip
from nip.graphs import to_mask
from nip.lra import recipe
from nip.lra.graphs import graph_label, is_named_pattern, original_layout, run_pattern

CLEAN, ORIGINAL = recipe("listops"), recipe("listops", "original")


def setting(base, **changes):
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize("name", list(nip.graphs.PATTERNS))
def test_clean_runs_use_the_pattern_of_that_name_and_size(name):
    config = setting(CLEAN, model=name, seq_len=500)
    assert run_pattern(config) == nip.pattern(name, 32)
    assert is_named_pattern(run_pattern(config), config)


@pytest.mark.parametrize("name", ["softmax", "hypercube", "longformer", "global", "local"])
def test_the_originals_layouts_without_randomness_are_the_patterns(name):
    assert run_pattern(setting(ORIGINAL, model=name, seq_len=512)) == nip.pattern(name, 32)


@pytest.mark.parametrize(
    ("name", "drawn", "fixed"), [("bigbird", 4, (1, 3)), ("random", 4, (0, 1)), ("local+random", 5, (0, 3))]
)
def test_the_originals_random_layouts(name, drawn, fixed):
    full = run_pattern(setting(ORIGINAL, model=name))
    hubs, window = fixed
    i, j = np.indices((128, 128))
    certain = (np.abs(i - j) <= window // 2) | (i < hubs) | (j < hubs)
    mask = to_mask(full)
    assert (mask | certain == mask).all()
    extra = (mask & ~certain)[hubs:].sum(1)
    # draws may hit blocks that are attended already, so rows have up to as many as are drawn, and some have fewer
    assert extra.max() == drawn and extra.min() < drawn
    expected = drawn * (~certain)[hubs:].sum() / (128 * (128 - hubs))
    assert abs(extra.mean() - expected) < 5 * (drawn * 0.05 / 128) ** 0.5
    # shorter inputs get the corner, in which about half of the random blocks are lost at half the length
    half = run_pattern(setting(ORIGINAL, model=name, seq_len=1024))
    assert (to_mask(half) == mask[:64, :64]).all()
    assert not is_named_pattern(half, setting(ORIGINAL, model=name, seq_len=1024))
    assert run_pattern(setting(ORIGINAL, model=name, parameters={"seed": 1})) != full


def test_the_originals_layout_beyond_2048_tokens_causal_and_symmetric():
    longer = setting(ORIGINAL, model="bigbird", seq_len=4096, positions=4096)
    assert original_layout(longer).n == 256
    mutual = original_layout(setting(ORIGINAL, model="random", parameters={"symmetric": True}))
    assert mutual.symmetric
    causal = original_layout(setting(ORIGINAL, model="bigbird", parameters={"causal": True}))
    assert causal.causal and not np.triu(to_mask(causal), 1).any()


def test_bad_names_parameters_and_files(tmp_path):
    with pytest.raises(ValueError, match="no pattern 'hypercub'"):
        run_pattern(setting(CLEAN, model="hypercub"))
    for base in (CLEAN, ORIGINAL):
        with pytest.raises(ValueError, match="has no parameter 'degree'"):
            run_pattern(setting(base, model="bigbird", parameters={"degree": 3}))
    edges = tmp_path / "ring.txt"
    edges.write_text("0 1\n1 2\n2 0\n")
    with pytest.raises(ValueError, match=r"takes no parameters\. Got seed"):
        run_pattern(setting(CLEAN, graph=str(edges), parameters={"seed": 1}))
    nip.pattern("hypercube", 7).save(tmp_path / "seven.npz")
    with pytest.raises(ValueError, match="graph on 7 vertices; 2048 tokens in blocks of 16 need 128"):
        run_pattern(setting(CLEAN, graph=str(tmp_path / "seven.npz")))
    with pytest.raises(FileNotFoundError):
        run_pattern(setting(CLEAN, graph=str(tmp_path / "absent.txt")))


def test_an_edge_list_may_omit_the_last_vertices(tmp_path):
    edges = tmp_path / "pair.txt"
    edges.write_text("0 1\n")
    assert run_pattern(setting(CLEAN, graph=str(edges))).n == 128


def test_labels(tmp_path):
    nip.pattern("bigbird", 7).save(tmp_path / "mine.npz")
    assert graph_label(tmp_path / "mine.npz") == "bigbird"
    assert graph_label(tmp_path / "ring.txt") == "ring"
