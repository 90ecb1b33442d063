"""What the words of a command line may be. Knows no model and no run.

Each function raises `BadParameter`, which names the flag, what was given and what is allowed.
"""

from __future__ import annotations

import typer

MOST_REQUESTS = 4096


def names(text: str, flag: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Of `allowed`, separated by commas, each once, one at least."""
    given = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in given:
        if name not in allowed:
            raise typer.BadParameter(f"{flag} {name!r}; allowed: {', '.join(allowed)}, separated by commas")
    if not given:
        raise typer.BadParameter(f"{flag} names none; allowed: {', '.join(allowed)}, separated by commas")
    return given


def one_of(given: str, flag: str, allowed: tuple[str, ...]) -> None:
    """Exactly one of `allowed`."""
    if given not in allowed:
        raise typer.BadParameter(f"{flag} {given!r}; allowed: {', '.join(allowed)}")


def finite(number: float | None, flag: str, least: float | None = None) -> None:
    """A number above 0 and from `least` on, or none given."""
    if number is not None and not (0 < number < float("inf") and number >= (least or 0)):
        raise typer.BadParameter(
            f"{flag} {number:g}; allowed: a finite number {f'from {least} on' if least else 'above 0'}"
        )


def numbers(text: str | None, flag: str) -> tuple[float, ...]:
    """Above 0, separated by commas, one at least; none where the flag was not given."""
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        found = (-1.0,)
    if any(not 0 < number < float("inf") for number in found) or (text is not None and not found):
        raise typer.BadParameter(f"{flag} {text!r}; allowed: finite numbers above 0, separated by commas")
    return found


def counts(text: str | None, flag: str) -> tuple[int, ...]:
    """Whole numbers from 1 to `MOST_REQUESTS`."""
    found = numbers(text, flag)
    for number in found:
        if number != int(number) or number > MOST_REQUESTS:
            raise typer.BadParameter(f"{flag} {number:g}; allowed: whole numbers from 1 to {MOST_REQUESTS}")
    return tuple(map(int, found))


def goes_alone(context: typer.Context, allowed: dict[str, list[str]]) -> None:
    """No flag beside one that measures nothing and would not look at it. `allowed`: by flag, its parameters, its own
    first."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    for flag, own in allowed.items():
        others = [f"--{name.replace('_', '-')}" for name in given if name not in own and name != "files"]
        if own[0] in given and others:
            raise typer.BadParameter(f"{flag} measures nothing; give no {', no '.join(others)} beside it")
