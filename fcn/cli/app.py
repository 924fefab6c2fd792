"""`python -m fcn COMMAND`: the list of commands. Each is in a file of its own, imported only when it is run."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from fcn.errors import ExportError, InputError, TrainingError

# What --help lists. It is written here since importing the commands for it would import torch.
COMMANDS = {
    "train": "Train FCN-8s once; under torchrun, on every rank.",
    "data": "Show what is in a data set: frames, classes, sequences, the split, a contact sheet.",
    "download": "Fetch a public data set.",
    "predict": "Predict images, folders and videos.",
    "evaluate": "Score an export, or write a submission for the KITTI server.",
    "export": "Write a checkpoint as files that others can run.",
    "settings": "Print every config field of a run as a page of Markdown.",
}


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command as the list of commands shows it, without importing it."""
        del ctx
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = typer.main.get_command(import_module(f"fcn.cli.{name}").app)
        return name, command, rest


app = typer.Typer(
    name="python -m fcn",
    help="FCN-8s on VGG16 for road and street scenes.",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Makes Typer treat the app as a group of commands, though none is registered with it."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status: 0, 2 for what a person can fix, 1 for a run that failed."""
    status = 2
    try:
        app(sys.argv[1:] if arguments is None else arguments, prog_name="python -m fcn")
    except ValidationError as error:
        # Imported here, since a prediction doesn't need fcn.config.
        from fcn.config import validation_sentences

        sentences = validation_sentences(error)
    except InputError as error:
        sentences = str(error).splitlines()
    except (TrainingError, ExportError) as error:
        sentences, status = str(error).splitlines(), 1
    except SystemExit as end:
        return int(end.code or 0)
    else:
        return 0
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)
    return status


def command() -> None:
    """The installed command `fcn`."""
    sys.exit(main())
