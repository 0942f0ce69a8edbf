"""How the command `mqk` prints what it has: tables for people, JSON for programs, complaints on standard error."""

import json
from collections.abc import Iterable, Sequence

import typer


def complain(what: object) -> None:
    for line in str(what).splitlines():
        typer.echo(f"mqk: {line}", err=True)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [[name.upper() for name in head], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
