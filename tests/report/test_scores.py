import pytest

from nip import score
from nip.graphs import Pattern, names_at, pattern
from nip.report.scores import graph_settings, run_graph
from nip.runs.record import find_records
from run_folders import small_config, write_run


def test_all_patterns_and_the_runs_own_graphs(tmp_path):
    own = {"num_random_blocks": 1, "seed": 5}
    write_run(tmp_path, small_config(model="hypercube"), name="a")
    write_run(tmp_path, small_config(model="bigbird", parameters=own), name="b")
    write_run(tmp_path, small_config(model="hypercube", seed=1), name="c")
    (setting,) = graph_settings(find_records([tmp_path]))
    assert (setting.seq_len, setting.block_size) == (256, 16)
    assert [graph.name for graph in setting.graphs] == [*names_at(16), "bigbird (num_random_blocks=1, seed=5)"]
    assert setting.graphs[-1] == pattern("bigbird", 16, **own)
    used = {graph.name: runs for graph, runs in zip(setting.graphs, setting.used, strict=True) if runs}
    assert used == {"hypercube": (0, 2), "bigbird (num_random_blocks=1, seed=5)": (1,)}
    rows = {row.score.pattern: row.score.nip_relative for row in setting.rows()}
    assert rows["hypercube"] == score(pattern("hypercube", 16), block_size=16).nip_relative
    assert len(rows) == 11


def test_every_size_has_its_own_setting(tmp_path):
    write_run(tmp_path, small_config(), name="a")
    write_run(tmp_path, small_config(seq_len=100, block_size=8), name="b")
    assert [(s.seq_len, s.block_size, s.graphs[1].n) for s in graph_settings(find_records([tmp_path]))] == [
        (256, 16, 16),
        (100, 8, 13),
    ]


def test_a_graph_from_a_file_is_the_one_in_the_folder(tmp_path):
    ring = Pattern.from_edges(16, range(16), [(k + 1) % 16 for k in range(16)], symmetric=True)
    folder = write_run(tmp_path, small_config(model="ring", graph="gone.txt"), checksum=ring.checksum)
    ring.save(folder / "pattern.npz")
    runs = find_records([tmp_path])
    assert run_graph(runs[0]) == ring
    (setting,) = graph_settings(runs)
    assert (setting.graphs[-1].name, setting.used[-1]) == ("ring", (0,))


def test_the_folders_graph_counts_even_where_the_file_has_changed_since(tmp_path):
    ring = Pattern.from_edges(16, range(16), [(k + 1) % 16 for k in range(16)], symmetric=True)
    pattern("local", 16).save(tmp_path / "changed.npz")
    config = small_config(model="ring", graph=str(tmp_path / "changed.npz"))
    folder = write_run(tmp_path, config, name="run", checksum=ring.checksum)
    ring.save(folder / "pattern.npz")
    assert run_graph(find_records([folder])[0]) == ring


def test_another_graph_than_the_run_recorded_is_refused(tmp_path):
    write_run(tmp_path, small_config(), checksum=pattern("local", 16).checksum)
    with pytest.raises(ValueError, match="was trained on another graph than its configuration names now"):
        graph_settings(find_records([tmp_path]))


def test_an_unknown_pattern_is_named_with_its_folder(tmp_path):
    write_run(tmp_path, small_config(model="cube"), name="odd", checksum="0" * 64)
    with pytest.raises(ValueError, match="odd: There is no pattern 'cube'"):
        graph_settings(find_records([tmp_path]))
