import gzip
import json
from collections import Counter

import pytest

from nip.bench import corpus as bench
from nip.cli import main
from nip.data.corpus.tokenizer import SPECIAL


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the cat saw the dog. The dog ran\n\nthe end é\n", "utf-8")
    return tmp_path / "text"


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL.values(), "the", "cat", "saw", "dog", "ran", "end", ".", "e"]) + "\n", "utf-8")
    return path


def test_words_are_drawn_as_often_as_they_occur(text, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_FILE", 100_000)
    size = bench.draw_text(text, tmp_path / "drawn", 300_000)
    files = sorted((tmp_path / "drawn").iterdir())
    assert sum(file.stat().st_size for file in files) == size >= 300_000 and len(files) >= 3
    drawn = "".join(file.read_text("utf-8") for file in files)
    assert all(50 <= len(document.split()) < 2000 for document in drawn.split("\n\n")[:-1])
    counts, total = Counter(drawn.split()), len(drawn.split())
    for word, n in Counter((text / "a.txt").read_text("utf-8").split()).items():
        assert counts[word] / total == pytest.approx(n / 11, abs=0.01), word
    assert bench.draw_text(text, tmp_path / "again", 300_000) == size
    assert all((tmp_path / "again" / file.name).read_bytes() == file.read_bytes() for file in files)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_times_every_step(text, vocabulary, tmp_path, capsys, jobs):
    table = tmp_path / "corpus.md"
    command = ["bench", "corpus", "--from", text, "--tokenizer", vocabulary, "--megabytes", 1, "--jobs", jobs]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, command), "--json", "--out", str(table)])
    assert not ended.value.code
    rows = {row["step"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["reading", "comparing", bench.TEXT_STEPS, "tokenizing", "total", bench.ALONE]
    seconds = {step: row["seconds"] for step, row in rows.items()}
    assert all(value > 0 for value in seconds.values())
    assert seconds[bench.TEXT_STEPS] == pytest.approx(seconds["reading"] + seconds["comparing"])
    assert seconds["total"] == pytest.approx(seconds[bench.TEXT_STEPS] + seconds["tokenizing"])
    for row in rows.values():
        assert row["megabytes"] == pytest.approx(1, abs=0.02) and row["jobs"] == jobs
        assert row["megabytes_per_second"] == pytest.approx(row["megabytes"] / row["seconds"], rel=1e-3, abs=1e-3)
    found = rows["tokenizing"]["megabytes_per_second"] / rows[bench.ALONE]["megabytes_per_second"]
    assert rows["tokenizing"]["ratio_to_tokenizers"] == pytest.approx(found, rel=0.01)
    assert rows["total"]["peak_mib"] > 50 and rows["reading"]["peak_mib"] is None
    assert f"| {bench.TEXT_STEPS} | 1 |" in table.read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"--megabytes": 0}, "'megabytes' parameter of bench corpus must be"),
        ({"--jobs": 0}, "'jobs' parameter of bench corpus must be"),
        ({"--from": "nowhere"}, "There is no file or folder nowhere"),
        ({"--from": "empty.txt"}, "has no words"),
        ({"--from": "packed.gz"}, "packed.gz is not UTF-8 text"),
        ({"--tokenizer": "empty.txt"}, "is not a vocabulary"),
    ],
)
def test_what_is_refused(text, vocabulary, tmp_path, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"words"))
    words = {"--from": text, "--tokenizer": vocabulary, "--megabytes": 1, "--jobs": 1, **options}
    with pytest.raises(SystemExit) as stop:
        main(["bench", "corpus", *(str(word) for pair in words.items() for word in pair)])
    assert stop.value.code == 2 and says in capsys.readouterr().err
