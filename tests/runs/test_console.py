import io
import sys

from nip.runs import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_now_and_then_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Console(tmp_path / "run.log", 200) as said:
        for step in range(1, 101):
            now[0] += 1
            said.step(step, 2.5, 0.125, 12345.6, 3723, 0.25)
        said.say("once")
        said.note("to the log")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # three in a hundred seconds, and what was said
    assert lines[0] == ("step 31 of 200  loss 2.5000  accuracy 12.5 %  best dev 25.0 %  12,346 tokens/s  1:02:03 left")
    log = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in log] == ["once", "to the log"]


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with console.Console(tmp_path / "run.log", 10) as said:
        said.step(3, 1.5, 0.5, 1000, 65, None)
        said.say("[not markup]")
    shown = terminal.getvalue()
    assert "3/10" in shown and "1:05 left" in shown and "1,000 tokens/s" in shown
    assert "[not markup]" in shown and "best dev" not in shown


def test_other_processes_are_silent(capsys):
    with console.Console(None, 10) as said:
        said.step(1, 1, 1, 1, 1, None)
        said.say("nothing")
    assert capsys.readouterr() == ("", "")
