"""`nip pretrain`: a BERT with attention over a graph, from a corpus; `nip pretrain grid`: a command per grid point."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nip.cli.options import Json, Param, option, with_options
from nip.cli.output import print_json
from nip.graphs.pattern import read_parameters
from nip.pretraining.settings import FIELDS, Settings, flag, wrong

IN_FILES = (*FIELDS, "dataset", "tokenizer")
NOT_IN_FILES = ("out", "output_dir", "config", "param", "dry_run", "json")
MASKING = ("mask_probability", "max_predictions", "mask_share", "random_share")
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
KINDS = {
    name: {"bool": bool, "int": int, "float": float}.get(str(each.type).removesuffix(" | None"), str)
    for name, each in FIELDS.items()
}
SWITCHES = ("dry_run", "json", *(name for name, kind in KINDS.items() if kind is bool))


@dataclass(frozen=True)
class Asked:
    """The run that a command line asks for."""

    settings: Settings
    dataset: Path
    output_dir: Path
    tokenizer: str | None


class WithOriginalFlags(TyperGroup):
    """A command that takes the original's flags too, and a value after a switch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Translate the arguments, then parse them."""
        ctx.obj = list(args)  # for the record of the run
        return super().parse_args(ctx, args if args[:1] == ["grid"] or "--help" in args else translated(args))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command = with_options(pretrain_command, [_option(name) for name in FIELDS if name != "parameters"])
    group = typer.Typer(cls=WithOriginalFlags, callback=command, invoke_without_command=True)
    group.command("grid")(grid_command)
    app.add_typer(group, name="pretrain", rich_help_panel="Train")


def _option(name: str) -> inspect.Parameter:
    """A setting as an option, whose default None leaves it to the file of --config."""
    field, kind = FIELDS[name], KINDS[name]
    names = [flag(name), "--model"] if name == "model" else [flag(name) + f"/--no-{flag(name)[2:]}" * (kind is bool)]
    default = False if field.default in (None, ()) or name == "lengths" else _shown(field.default)
    how = option(field.metadata["says"], *names, default=default, panel=field.metadata["group"].capitalize())
    annotation = Annotated[kind | None, how]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    return ("off", "on")[default] if isinstance(default, bool) else str(default)


def pretrain_command(
    context: typer.Context,
    dataset: Annotated[str | None, option("Folder of a corpus that nip data corpus made.")] = None,
    output_dir: Annotated[
        Path | None,
        option(
            "Run folder; with --job-name its parent folder.",
            "--output-dir",
            "--out",
            default="runs/pretraining-PATTERN-SIZE-seedSEED",
        ),
    ] = None,
    config: Annotated[
        Path | None, option("YAML or JSON file of settings, such as a recipe or a run's run.json.")
    ] = None,
    param: Param = None,
    tokenizer: Annotated[
        str | None, option("Tokenizer, which must be that of the corpus.", default="the corpus's")
    ] = None,
    dry_run: Annotated[bool, option("Print the estimated memory and time without training.", "--dry-run")] = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Pretrain a BERT with attention over a graph. Rerun the same command to resume.

    The original's flags are understood too.

    Example: nip pretrain --dataset shards --size tiny --lengths 128 --max-steps 1000
    """
    if context.invoked_subcommand is not None:
        return
    from nip.runs.process import spin_briefly

    spin_briefly()
    asked = resolve(context.params)
    if asked.tokenizer is not None:
        from nip.pretraining.checks import check_tokenizer

        check_tokenizer(asked.tokenizer, asked.dataset)
    if dry_run:
        from nip.pretraining.plan import plan

        found = plan(asked.settings, asked.dataset)
        print_json(found.to_dict()) if as_json else print(found)
        return
    from nip.pretraining.run import format_result, pretrain

    result = pretrain(asked.settings, asked.dataset, asked.output_dir, command=["nip", "pretrain", *context.obj])
    from accelerate import PartialState

    if PartialState().is_main_process:
        print_json(result) if as_json else print(f"{format_result(result)}\n{asked.output_dir}")


def resolve(given: Mapping[str, Any]) -> Asked:
    """The run of these options: they take precedence, then the file of ``--config``, then the defaults.

    Parameters
    ----------
    given : mapping
        Values by the names of `pretrain_command`'s parameters; None is not given.

    Raises
    ------
    ValueError
        If a setting is impossible, or the dataset is not a corpus.
    """
    from nip.data import runs_folder
    from nip.data.corpus import read_manifest

    values = {name: value for name, value in given.items() if value is not None}
    if values.get("param"):
        values["parameters"] = read_parameters(values["param"])
    typed = set(values)
    if "config" in values:
        values = {**read_file(values["config"]), **values}
    if "dataset" not in values:
        raise ValueError("--dataset must name the folder of a corpus. Make one with: nip data corpus")
    dataset = Path(values["dataset"]).expanduser()
    made = read_manifest(dataset)["settings"]
    masked_once = made["masked_once"]
    values.setdefault("lengths", made["max_seq_length"])
    settings = Settings(**{name: value for name, value in values.items() if name in FIELDS})
    for name in values:
        # a run's own record names all settings, most of them at their defaults
        if name in FIELDS and (name in typed or getattr(settings, name) != FIELDS[name].default):
            why = "with a corpus that was masked once" if masked_once and name in MASKING else no_effect(name, settings)
            if why is not None:
                print(f"nip: {flag(name)} does nothing {why}.", file=sys.stderr)
    most, longest = settings.max_predictions, settings.max_length
    if most is not None and not masked_once and most < 0.9 * longest * settings.mask_probability:
        share = 100 * most / longest
        print(f"nip: --max-predictions leaves {share:.1f} % of {longest} tokens to predict.", file=sys.stderr)
    name = f"pretraining-{settings.model}-{settings.size}-seed{settings.seed}"
    folder = values.get("output_dir", runs_folder() / name)
    return Asked(settings, dataset, folder.expanduser(), values.get("tokenizer"))


def no_effect(name: str, settings: Settings) -> str | None:
    """Why a setting has no effect with the others; None if it has one.

    Examples
    --------
    >>> no_effect("decay_rate", Settings(max_steps=1)), no_effect("eps", Settings(max_steps=1))
    ('without --curve exp', None)
    """
    needs = {
        **dict.fromkeys(("max_coeff", "min_coeff"), ("--optimizer lamb", settings.optimizer.startswith("lamb"))),
        **dict.fromkeys(("decay_rate", "decay_step"), ("--curve exp", settings.curve == "exp")),
        "decay_share": ("--curve warmup-stable-decay", settings.curve == "warmup-stable-decay"),
        "ramp_share": ("--ramp-from", settings.ramp_from is not None),
        "eval_begin_share": ("--eval-every-begin", settings.eval_every_begin is not None),
        "eval_end_share": ("--eval-every-end", settings.eval_every_end is not None),
        "early_stop_minutes": ("--early-stop-loss", settings.early_stop_loss is not None),
        "overflow_limit": ("--precision fp16", settings.precision == "fp16"),
    }
    if name in needs:
        needed, given = needs[name]
        return None if given else f"without {needed}"
    if name in ("beta1", "beta2", "eps", "bias_correction") and settings.optimizer == "adafactor":
        return "with --optimizer adafactor"
    if name == "warmup" and settings.schedule == "constant_step":
        return "with --schedule constant_step, which has --warmup-steps"
    if name == "token_types" and settings.architecture == "modernbert":
        return "with --architecture modernbert"
    return None


def translated(words: Sequence[str]) -> list[str]:
    """Arguments with the original's flags as today's options, one word each; a notice of each change is printed.

    Raises
    ------
    ValueError
        If an option is given twice, or lacks its value.
    """
    from nip.cli.compat.pretraining_flags import flags, today

    given, notices = today(flags(words))
    for notice in notices:
        print(f"nip: {notice}", file=sys.stderr)
    found: list[str] = []
    seen = set()
    for name, text in given:
        if name in seen and name != "param":
            raise ValueError(f"{flag(name)} is given twice.")
        seen.add(name)
        if name in SWITCHES:
            found.append(flag(name) if text is None or _truth(name, text) else f"--no-{name}")
        elif text is None and name in (*IN_FILES, *NOT_IN_FILES):
            raise ValueError(f"{flag(name)} needs a value.")
        else:
            found.append(flag(name) if text is None else f"{flag(name)}={text}")
    return found


def _truth(name: str, text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise wrong(name, "true or false", text)
    return text.lower() in TRUE


def read_file(path: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file: a mapping of options to values, or a run's ``run.json``.

    Raises
    ------
    ValueError
        If the file is not such a mapping, or names an unknown option.
    """
    import yaml

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
        if name not in IN_FILES:
            raise ValueError(f"{path}: {_not_in_files(name)}")
        values[name] = _from_text(name, value) if isinstance(value, str) else value
    return values


def _from_text(name: str, text: str) -> Any:
    """A value that YAML reads as text, such as 1e-3."""
    kind = KINDS.get(name, str)
    if kind is bool:
        return _truth(name, text)
    try:
        return kind(text)
    except ValueError:
        raise wrong(name, {int: "an integer", float: "a number"}[kind], text) from None


def _not_in_files(name: str) -> str:
    """The sentence about a key that a file of settings cannot have."""
    from nip.cli.compat.pretraining_flags import KNOWN, RENAMED

    if RENAMED.get(name) in IN_FILES:
        return f"{name} is called {RENAMED[name].replace('_', '-')} in a file."
    if name in (*NOT_IN_FILES, *KNOWN):
        return f"{flag(name)} belongs on the command line, not in a file."
    near = difflib.get_close_matches(name, IN_FILES, n=1)
    return f"There is no setting {name}." + (f" Did you mean {near[0].replace('_', '-')}?" if near else "")


def grid_command(
    file: Annotated[Path, typer.Argument(help="YAML file of fixed options and lists of values to combine.")],
    launcher: Annotated[str, option("Start of every command.")] = "nip pretrain",
    shuffle: Annotated[int | None, option("Seed of a random order.", metavar="SEED")] = None,
    as_json: Json = False,
) -> None:
    """Print a command for each point of a grid of settings.

    Example: nip pretrain grid grid.yaml --launcher "torchrun --nproc_per_node 8 -m nip pretrain"
    """
    from nip.cli.compat.grid import commands, read_grid

    lines = commands(read_grid(file), launcher, shuffle=shuffle)
    print_json(lines) if as_json else print("\n".join(lines))
