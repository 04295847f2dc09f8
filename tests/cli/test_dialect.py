"""One dialect: every command names a pattern and what it writes alike, and takes older names and `_` for `-`."""

from __future__ import annotations

import dataclasses
import re

import pytest
import typer
from typer.core import TyperOption

from nip.cli import app, main
from nip.finetuning import commands
from nip.finetuning.search.arguments import read_search

FINETUNING = ("glue", "mlm", "qa", "summarization")
BY_HAND = (*FINETUNING, "hpo")  # these read their words themselves
BENCHMARKS = ("attention", "corpus", "encoder", "gpu", "pretrain", "scoring", "step")
NAMES_PATTERN = {
    *("score", "compare", "show", "lra", "pretrain", "study", *FINETUNING),
    *(f"bench {name}" for name in BENCHMARKS if name != "corpus"),
}
FILLS_FOLDER = {"convert", "lra", "pretrain", "study", "hpo", *FINETUNING}  # and all that makes data
READS_DATA = {"data show", "data verify"}
WRITES_FILE = {"score", "compare", "show", "search", "report", "checkpoints", *(f"bench {name}" for name in BENCHMARKS)}
OLD_NAMES = {
    **{command: [("--attention", "--patterns")] for command in NAMES_PATTERN if command.startswith("bench")},
    "study": [("--attention", "--patterns")],
    **{command: [("--attention", "--model")] for command in ("lra", "pretrain")},
    "bench step": [("--attention", "--model")],
    "data show": [("--data", "--out")],
    "data verify": [("--data", "--out")],
}


def walk(command, path=()):
    inner = getattr(command, "commands", {})
    found = {name: each for word, child in inner.items() for name, each in walk(child, (*path, word)).items()}
    return found if inner and not command.invoke_without_command else {" ".join(path): command, **found}


ROOT = typer.main.get_command(app)
COMMANDS = walk(ROOT)
OPTIONS = {
    path: [each for each in command.params if isinstance(each, TyperOption)]
    for path, command in COMMANDS.items()
    if path not in BY_HAND
}


@pytest.fixture
def nip(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NIP_RUNS", str(tmp_path / "runs"))

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


def shown(path, nip):
    """The options that a command's help names."""
    if path in OPTIONS:
        return {name for each in OPTIONS[path] if not each.hidden for name in each.opts}
    code, out, _ = nip(*path.split(), "--help")
    assert code == 0
    return {name.replace("_", "-") for name in re.findall(r"^  (?:-h, )?(--[\w-]+)", out, re.MULTILINE)}


@pytest.mark.parametrize("path", COMMANDS)
def test_patterns_and_output_have_one_name(path, nip):
    found = shown(path, nip)
    fills = path in FILLS_FOLDER or (path.startswith("data ") and path not in READS_DATA)
    assert ("--attention" in found) == (path in NAMES_PATTERN)
    assert ("--output-dir" in found) == fills
    assert ("--output" in found) == (path in WRITES_FILE)
    assert not found & {"--out", "--patterns", "--pattern"}
    assert "--model" not in found


PANELS = {
    "Graphs": {"score", "compare", "show", "search"},
    "Train": {"lra", "pretrain", "study"},
    "Finetune": {*FINETUNING, "hpo", "checkpoints", "convert"},
    "Data": {"data"},
    "Tools": {"report", "bench", "doctor"},
}


def test_help_lists_the_commands_in_groups():
    found: dict[str, set[str]] = {}
    for name, command in ROOT.commands.items():
        found.setdefault(command.rich_help_panel, set()).add(name)
    assert found == PANELS
    assert list(found) == list(PANELS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_has_a_sentence_of_help(path):
    command = COMMANDS[path]
    assert command.help.partition("\n\n")[0].replace("\n", " ").endswith(".")
    for parameter in command.params:
        assert re.fullmatch(r"[A-Z\w][^.].*\.", parameter.help or "", re.DOTALL), parameter.name


@pytest.mark.parametrize("path", OPTIONS)
def test_defaults_are_shown(path):
    """An option whose default is not None shows it; None means: nothing, or what the text in brackets says."""
    context = COMMANDS[path].make_context("nip", [], resilient_parsing=True)
    for option in OPTIONS[path]:
        if option.default not in (None, False, "", []) and not option.required:
            assert "[default: " in option.get_help_record(context)[1], option.name


def parsed(path, *words):
    return COMMANDS[path].make_context("nip", list(words), resilient_parsing=True).params


def with_value(option, name):
    """An option by a name, with a value of its kind, as one word: lists take it too."""
    if option.is_flag:
        return name
    kind = str(option.type_descriptor.annotation)
    return f"{name}={'a_b=c_d' if option.name == 'param' else 7 if 'int' in kind or 'float' in kind else 'a_b'}"


@pytest.mark.parametrize("path", OPTIONS)
def test_hyphens_and_underscores_are_alike(path):
    for option in OPTIONS[path]:
        for name in (*option.opts, *option.secondary_opts):
            if "-" in name[2:]:
                spelled = f"--{name[2:].replace('-', '_')}"
                as_shown, other = parsed(path, with_value(option, name)), parsed(path, with_value(option, spelled))
                assert as_shown == other
                assert as_shown != parsed(path) or name in option.secondary_opts or option.default is True


@pytest.mark.parametrize("path", OPTIONS)
def test_older_names_are_taken_and_not_shown(path):
    names = {name for each in OPTIONS[path] for name in each.opts}
    older = OLD_NAMES.get(path, []) + [(name, "--out") for name in ("--output-dir", "--output") if name in names]
    for name, old in older:
        assert old not in names
        assert parsed(path, f"{old}=a_b") == parsed(path, f"{name}=a_b") != parsed(path)


def test_values_stay_as_they_are(nip):
    words = ("--n-vertices", "8", "--param", "num_random_blocks=1", "--json")
    assert nip("score", "--attention", "bigbird", *words) == nip("score", "bigbird", *words)
    assert '"num_random_blocks": 1' in nip("score", "--attention=bigbird", *words)[1]


@pytest.mark.parametrize("path", COMMANDS)
def test_an_unknown_option_is_one_sentence_and_leaves_nothing(path, nip, tmp_path):
    code, out, err = nip(*path.split(), "--no-such-option", "1")
    assert (code, out) == (2, "")
    assert "no-such-option" in err.replace("_", "-")
    assert err.startswith("nip: ") and err.count("\n") == 1 and err.rstrip()[-1] in ".?"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", OPTIONS)
def test_a_bad_value_is_one_sentence_and_leaves_nothing(path, nip, tmp_path):
    numbers = [each for each in OPTIONS[path] if re.search("int|float", str(each.type_descriptor.annotation))]
    required = [with_value(each, each.opts[0]) for each in OPTIONS[path] if each.required and each not in numbers]
    for option in numbers:
        code, out, err = nip(*path.split(), *required, option.opts[0], "many")
        assert (code, out) == (2, "")
        assert option.opts[0] in err
        assert err.startswith("nip: ") and err.count("\n") == 1 and err.endswith(".\n")
        assert list(tmp_path.iterdir()) == []


TO_EVALUATE = {
    "glue": "--task_name mrpc",
    "mlm": "--dataset_name wikitext",
    "qa": "--dataset_name squad",
    "summarization": "--dataset_name cnn",
}


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_flags(name):
    """Hyphens, underscores and --out are alike; every flag of ours has a sentence of help."""
    read = commands.COMMANDS[name].load().read_command
    words = f"{TO_EVALUATE[name]} --do_eval --model_name_or_path m".split()
    one = read([*words, "--output_dir", "a_b", "--block_size=8"], name)
    other = read([*(word.replace("_", "-") for word in words), "--out", "a_b", "--block-size", "8"], name)
    ours = ("attention", "model", "run", "task")
    assert all(getattr(one, part) == getattr(other, part) for part in ours) and one.given == other.given
    assert one.training.output_dir == other.training.output_dir == "a_b"
    for part in ours:
        for field in dataclasses.fields(getattr(one, part)):
            assert re.fullmatch(r".+\.", field.metadata["help"], re.DOTALL), field.name


def test_flags_of_a_search(tmp_path):
    words = ["glue", "--task_name", "mrpc", "--model_name_or_path", "m"]
    one = read_search([*words, "--output_dir", str(tmp_path), "--keep_all", "--study_name=a_b", "--n-trials", "3"])
    assert one == read_search([*words, f"--out={tmp_path}", "--keep-all", "--study", "a_b", "--trials", "3"])
    assert (one.folder, one.study, one.trials, one.keep_all) == (tmp_path, "a_b", 3, True)


@pytest.mark.parametrize("path", BY_HAND)
def test_a_bad_value_of_a_flag_is_one_sentence_and_leaves_nothing(path, nip, tmp_path):
    bad = "--workers" if path == "hpo" else "--block_size"
    code, out, err = nip(path, bad, "many")
    assert (code, out) == (2, "")
    assert bad in err and err.startswith("nip: ") and err.count("\n") == 1 and err.endswith(".\n")
    assert list(tmp_path.iterdir()) == []
