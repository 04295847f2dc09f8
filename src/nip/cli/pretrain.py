"""`nip pretrain`: a model from a corpus, with options of today or the original's flags; `nip pretrain grid FILE`."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nip.graphs.pattern import read_parameters

if TYPE_CHECKING:
    from nip.pretraining.settings import Settings

EXAMPLE = "Example: nip pretrain --dataset shards --size tiny --lengths 128 --max-steps 1000"
OTHERS = {
    "dataset": "The folder of a corpus that nip data corpus made.",
    "out": "The run's folder; by default runs/pretraining-PATTERN-SIZE-seedSEED. With --job-name it is in this folder.",
    "config": "Settings from a YAML or JSON file, such as a recipe or a run's run.json.",
    "param": "A parameter of the pattern, name=value; may be repeated.",
    "tokenizer": "Must be the corpus's own; another one is refused.",
    "dry_run": "Say what the run would need of memory and time, and begin nothing.",
    "json": "Print one JSON value on standard output.",
}
OPTION = {"model": "attention", "out": "output_dir"}  # what is not called as its option
SWITCHES = ("dry_run", "json")
MASKING = ("mask_probability", "max_predictions", "mask_share", "random_share")
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    settings: Settings
    dataset: Path
    out: Path
    tokenizer: str | None
    dry_run: bool
    as_json: bool


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    options = {"context_settings": passed_on, "add_help_option": False, "rich_help_panel": "Train"}
    app.command("pretrain", **options)(pretrain_command)  # type: ignore[arg-type]


def pretrain_command(context: typer.Context) -> None:
    """Pretrain a BERT with attention over a graph; stopped, the same command goes on. --help lists the options.

    Example: nip pretrain --dataset shards --size tiny --lengths 128 --max-steps 1000
    """
    words = list(context.args)
    if words[:1] == ["grid"]:
        grid_command(words[1:])
    elif not words or "--help" in words:
        print(help_text())
    else:
        from nip.runs.process import spin_briefly

        spin_briefly()
        carry_out(asked_for(words), ["nip", "pretrain", *words])


def carry_out(asked: Asked, command: Sequence[str]) -> None:
    """Pretrain, or say what it would need."""
    if asked.tokenizer is not None:
        from nip.pretraining.checks import refuse_other_tokenizer

        refuse_other_tokenizer(asked.tokenizer, asked.dataset)
    if asked.dry_run:
        from nip.pretraining.plan import plan

        found = plan(asked.settings, asked.dataset)
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False) if asked.as_json else found.in_words())
        return
    from nip.pretraining.run import format_result, pretrain

    result = pretrain(asked.settings, asked.dataset, asked.out, command=command)
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(
            json.dumps(result, allow_nan=False, indent=2) if asked.as_json else f"{format_result(result)}\n{asked.out}"
        )


def asked_for(words: Sequence[str]) -> Asked:
    """What a command line asks for: options come first, then the file of ``--config``, then the defaults.

    Raises
    ------
    ValueError
        If there is no such option, or a value is not possible.
    """
    from nip.cli.compat.pretraining_flags import today
    from nip.data import runs_folder
    from nip.data.corpus import read_manifest
    from nip.pretraining.settings import FIELDS, Settings

    given, notices = today(flags(words))
    for notice in notices:
        print(f"nip: {notice}", file=sys.stderr)
    values: dict[str, Any] = {}
    parameters: list[str] = []
    for spelled, text in given:
        name = "model" if spelled == "attention" else spelled
        if name == "param":
            parameters.append(text or "")
        elif name in FIELDS or name in OTHERS:
            if name in values:
                raise ValueError(f"{option(name)} is given twice.")
            values[name] = converted(name, text)
        elif name.removeprefix("no_") in switches() and text is None:
            values[name.removeprefix("no_")] = False
        else:
            raise ValueError(unknown(name))
    if parameters:
        values["parameters"] = read_parameters(parameters)
    typed = set(values)
    if "config" in values:
        values = {**read_file(Path(values["config"])), **values}
    if "dataset" not in values:
        raise ValueError("--dataset must name the folder of a corpus. Make one with: nip data corpus")
    made = read_manifest(Path(values["dataset"]).expanduser())["settings"]
    values.setdefault("lengths", made["max_seq_length"])
    settings = Settings(**{name: value for name, value in values.items() if name in FIELDS})
    masked_once = made["masked_once"]
    for name in values:
        # a run's own record names all settings, and most stand at their defaults
        if name in FIELDS and (name in typed or getattr(settings, name) != FIELDS[name].default):
            why = "with a corpus that was masked once" if masked_once and name in MASKING else idle(name, settings)
            if why is not None:
                print(f"nip: {option(name)} does nothing {why}.", file=sys.stderr)
    most, longest = settings.max_predictions, settings.max_length
    if most is not None and not masked_once and most < 0.9 * longest * settings.mask_probability:
        share = 100 * most / longest
        print(f"nip: --max-predictions leaves {share:.1f} % of {longest} tokens to predict.", file=sys.stderr)
    name = f"pretraining-{settings.model}-{settings.size}-seed{settings.seed}"
    return Asked(
        settings,
        Path(values["dataset"]).expanduser(),
        Path(values["out"]).expanduser() if "out" in values else runs_folder() / name,
        values.get("tokenizer"),
        values.get("dry_run", False),
        values.get("json", False),
    )


def idle(name: str, settings: Settings) -> str | None:
    """Why an option has no effect beside the others; None where it has one.

    Examples
    --------
    >>> from nip.pretraining.settings import Settings
    >>> idle("decay_rate", Settings(max_steps=1)), idle("eps", Settings(max_steps=1))
    ('without --curve exp', None)
    """
    needs = {
        **dict.fromkeys(("max_coeff", "min_coeff"), ("--optimizer lamb", settings.optimizer == "lamb")),
        **dict.fromkeys(("decay_rate", "decay_step"), ("--curve exp", settings.curve == "exp")),
        "decay_share": ("--curve warmup-stable-decay", settings.curve == "warmup-stable-decay"),
        "ramp_share": ("--ramp-from", settings.ramp_from is not None),
        "eval_begin_share": ("--eval-every-begin", settings.eval_every_begin is not None),
        "eval_end_share": ("--eval-every-end", settings.eval_every_end is not None),
        "early_stop_minutes": ("--early-stop-loss", settings.early_stop_loss is not None),
        "overflow_limit": ("--precision fp16", settings.precision == "fp16"),
    }
    if name in needs:
        wanted, there = needs[name]
        return None if there else f"without {wanted}"
    if name in ("beta1", "beta2", "eps", "bias_correction") and settings.optimizer == "adafactor":
        return "with --optimizer adafactor"
    if name == "warmup" and settings.schedule == "constant_step":
        return "with --schedule constant_step, which has --warmup-steps"
    if name == "token_types" and settings.architecture == "modernbert":
        return "with --architecture modernbert"
    return None


def with_model(name: str, words: Sequence[str]) -> list[str]:
    """A command line that attends over a pattern unless it names one.

    Examples
    --------
    >>> with_model("softmax", ["--seed", "1"]), with_model("softmax", ["--model=local"])
    (['--attention', 'softmax', '--seed', '1'], ['--model=local'])
    """
    named = not words or any(word.split("=")[0] in ("--attention", "--model", "--config", "--help") for word in words)
    return list(words) if named else ["--attention", name, *words]


def flags(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """The options of a command line with their values, as text; names with underscores.

    Examples
    --------
    >>> flags(["--max-steps", "5", "--seed=1", "--fp16", "--param", "seed=3"])
    [('max_steps', '5'), ('seed', '1'), ('fp16', None), ('param', 'seed=3')]
    """
    found: list[tuple[str, str | None]] = []
    left = [str(word) for word in words]
    while left:
        word = left.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ValueError(f"{word!r} is no option; options begin with two hyphens.")
        name, equals, value = word[2:].partition("=")
        text = value if equals else None
        if not equals and left and not left[0].startswith("--"):
            text = left.pop(0)
        found.append((name.replace("-", "_"), text))
    return found


def converted(name: str, text: str | None) -> Any:
    """A value of the type that the option has.

    Raises
    ------
    ValueError
        If the text is none.
    """
    from nip.pretraining.settings import FIELDS, wrong

    if name in switches():
        said = "true" if text is None else text.lower()
        if said not in TRUE + FALSE:
            raise wrong(name, "true or false", text)
        return said in TRUE
    if text is None:
        raise ValueError(f"{option(name)} needs a value.")
    kind = str(FIELDS[name].type) if name in FIELDS else "str"
    for type_name, wanted, of in (("int", "an integer", int), ("float", "a number", float)):
        if kind.startswith(type_name):
            try:
                return of(text)
            except ValueError:
                raise wrong(name, wanted, text) from None
    return text


def read_file(path: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file: a mapping of options to values, or what a run's ``run.json`` holds.

    Raises
    ------
    ValueError
        If the file is no such mapping, or names what is no option.
    """
    import yaml

    from nip.pretraining.settings import FIELDS

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if isinstance(found, dict) and isinstance(found.get("settings"), dict):
        found = found["settings"]
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold a mapping of settings to values. Got {type(found).__name__} instead.")
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        name = "model" if name == "attention" else name
        if name not in FIELDS and name not in ("dataset", "tokenizer"):
            raise ValueError(f"{path}: {elsewhere(name) or unknown(name)}")
        # YAML takes 1e-3 for a text
        values[name] = converted(name, value) if isinstance(value, str) else value
    return values


def elsewhere(name: str) -> str | None:
    """The sentence about an option that a file of settings cannot have; None where there is no such option."""
    from nip.cli.compat.pretraining_flags import KNOWN, RENAMED
    from nip.pretraining.settings import FIELDS

    if name in RENAMED and RENAMED[name] in (*FIELDS, "dataset", "tokenizer"):
        return f"{name} is called {RENAMED[name].replace('_', '-')} in a file."
    if name in (*OTHERS, *KNOWN):
        return f"{option(name) if name in OTHERS else f'--{name}'} belongs on the command line, not in a file."
    return None


def unknown(name: str) -> str:
    """The sentence about an option that does not exist, with the nearest that does."""
    from nip.cli.compat.pretraining_flags import KNOWN
    from nip.pretraining.settings import FIELDS

    near = difflib.get_close_matches(name, ["attention", *FIELDS, *OTHERS, *KNOWN], n=1, cutoff=0.6)
    hint = f"Did you mean {option(near[0])}?" if near else "--help lists them."
    return f"There is no option --{name.replace('_', '-')}. {hint}"


def option(name: str) -> str:
    """A setting as an option of the command line."""
    return f"--{OPTION.get(name, name).replace('_', '-')}"


def switches() -> tuple[str, ...]:
    """The options that are on or off."""
    from nip.pretraining.settings import FIELDS

    return (*SWITCHES, *(name for name, each in FIELDS.items() if each.type == "bool"))


def help_text() -> str:
    """All options, in groups."""
    from nip.pretraining.settings import FIELDS

    parser = argparse.ArgumentParser(
        "nip pretrain",
        usage="nip pretrain --dataset SHARDS [OPTION …]\n       nip pretrain grid FILE",
        description="Pretrain a BERT with attention over a graph. Stopped, the same command goes on where it was. The "
        "original's flags are understood too. `nip pretrain grid FILE` prints a command for each point of a grid.",
        epilog=EXAMPLE,
        add_help=False,
    )
    groups = {"run": parser.add_argument_group("the run")}
    for name, says in OTHERS.items():
        action: Any = {"action": "store_true"} if name in SWITCHES else {"metavar": name.upper()}
        groups["run"].add_argument(option(name), help=says.replace("%", "%%"), **action)
    for name, each in FIELDS.items():
        group = each.metadata["group"]
        if name == "parameters":
            continue
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = each.default
        shown = "" if default is None or default == () else f" [{_written(default)}]"
        metavar = "" if each.type == "bool" else OPTION.get(name, name).upper()
        groups[group].add_argument(
            option(name), metavar=metavar, help=(each.metadata["says"] + shown).replace("%", "%%")
        )
    return parser.format_help()


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{length}" if share == 1 else f"{length}:{share}" for length, share in value)
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def grid_command(words: Sequence[str]) -> None:
    """Print a command for each point of a grid."""
    from nip.cli.compat.grid import commands, read_grid

    parser = argparse.ArgumentParser("nip pretrain grid", description=grid_command.__doc__)
    parser.add_argument("file", type=Path, help="YAML: fixed options, and lists of values to combine")
    parser.add_argument("--launcher", default="nip pretrain", help="what each command begins with")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in an order that a seed decides")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    options = parser.parse_args(list(words))
    lines = commands(read_grid(options.file), options.launcher, shuffle=options.shuffle)
    print(json.dumps(lines, indent=2) if options.json else "\n".join(lines))
