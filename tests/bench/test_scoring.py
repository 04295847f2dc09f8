import json

import pytest

from nip.bench.scoring import bench_scoring
from nip.cli import main


def test_every_pattern_at_every_length_is_measured():
    rows = list(bench_scoring(["hypercube", "local"], [64, 100], 16, repeats=2))
    assert [(r.pattern, r.n_tokens, r.n_vertices) for r in rows] == [
        ("hypercube", 64, 4),
        ("local", 64, 4),
        ("hypercube", 112, 7),
        ("local", 112, 7),
    ]
    assert all(row.seconds > 0 and row.ratio_to_scipy > 0 and row.repeats == 2 for row in rows)


def test_graphs_too_large_for_scipy_have_no_ratio(monkeypatch):
    monkeypatch.setattr("nip.bench.scoring.LARGEST_FOR_SCIPY", 5)
    small, large = bench_scoring(["local"], [80, 96], 16, repeats=1)
    assert small.ratio_to_scipy > 0
    assert large.ratio_to_scipy is None


def test_command(capsys, tmp_path):
    arguments = ["bench", "scoring", "--patterns", "local", "--seq-len", "64,128", "--repeats", "1"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--json", "--out", str(tmp_path / "table.md")])
    assert not stop.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["n_tokens"] for row in rows] == [64, 128]
    assert {"seconds", "ratio_to_scipy", "processor", "threads", "date"} <= rows[0].keys()
    assert (tmp_path / "table.md").read_text().count("| local |") == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--patterns", "cube"], "no pattern 'cube'"),
        (["--seq-len", "0"], "'seq_len' parameter of bench scoring"),
        (["--seq-len", "long"], "must be an integer. Got 'long'"),
        (["--repeats", "0"], "'repeats' parameter"),
        (["--patterns", ","], "nothing to measure"),
    ],
)
def test_bad_input(capsys, options, says):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "scoring", *options])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
