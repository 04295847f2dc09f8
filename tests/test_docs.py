"""What README and docs claim, runs: Python blocks and scoring commands; others parse against the real command line."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import typer

from nip.cli import app, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
RUN = ("score", "compare", "show")


def blocks(page):
    """(language, text, line) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2], text[: match.start()].count("\n") + 1


def commands():
    """Every shell line of the pages that calls something of ours, continued lines joined."""
    for page in PAGES:
        for language, text, line in blocks(page):
            if language in {"", "bash", "sh", "console"}:
                for command in text.replace("\\\n", " ").splitlines():
                    words = shlex.split(command.removeprefix("$ "), comments=True)
                    if "&&" in words:
                        words = words[words.index("&&") + 1 :]
                    if words and words[0] in {"nip", "make", "python", "pytest"}:
                        yield pytest.param(words, id=f"{page.name}:{line}:{' '.join(words)[:60]}")


def python_blocks():
    for page in PAGES:
        for language, text, line in blocks(page):
            if language == "python":
                yield pytest.param(text, id=f"{page.name}:{line}")


def parse(words):
    """Parse a `nip` command line down to its last option without running it."""
    group = typer.main.get_command(app)
    context = group.make_context("nip", list(words[1:]))
    while hasattr(group, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, rest = group.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        group = command
    return context


@pytest.mark.parametrize("text", list(python_blocks()))
def test_python_blocks_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("words", list(commands()))
def test_commands_are_real(words, tmp_path, monkeypatch, capsys):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] in {"python", "pytest"}:
        paths = [word for word in words[1:] if word.endswith(".py") or word.startswith("tests")]
        assert all((ROOT / path).exists() or (ROOT / "scripts" / path).exists() for path in paths)
    elif words[1] in RUN:
        monkeypatch.chdir(tmp_path)
        Path("edges.txt").write_text("1 2\n2 3\n")
        with pytest.raises(SystemExit) as stop:
            main(words[1:])
        assert not stop.value.code, capsys.readouterr().err
    else:
        parse(words)


def test_there_is_something_to_check():
    assert len(list(commands())) >= 10
    assert len(list(python_blocks())) >= 2


def test_unknown_commands_and_options_are_noticed():
    for line in ("nip scroe hypercube", "nip lra --modle hypercube", "nip doctor now"):
        with pytest.raises(Exception, match=r"(?i)no such|unexpected|got"):
            parse(line.split())


def anchors(page):
    """The fragments of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not fragment or fragment in anchors(linked), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_named_paths_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:src|tests|scripts|docs|recipes|csrc)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for name in re.findall(r"`(nip(?:\.\w+)+)[`(]", text):
        assert pkgutil.resolve_name(name) is not None, f"{page.name} names {name}"


def test_the_index_links_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "index.md" or f"({page.relative_to(ROOT / 'docs')})" in index, page


def test_commands_of_the_readme_table_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `nip ")]
    named = {name for row in rows for name in re.findall(r"`nip (\w+)`", row)}
    assert named == set(typer.main.get_command(app).commands)
