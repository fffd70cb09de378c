"""`python -m tests.reference` writes doc/reference from the commands themselves; a test holds the two together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

PLACE = Path(__file__).parent.parent / "doc" / "reference"
WIDTH = 100


def programs() -> dict[str, click.Command]:
    """Return every installed command by its name."""
    from isolate.cli import isolate, isolateserver
    from run_isolated.cli import cli as run_isolated
    from server.cli import cli as swarming_server
    from swarming.bot.cli import cli as swarming_bot
    from swarming.cli import swarming

    return {
        "isolate": isolate,
        "isolateserver": isolateserver,
        "run_isolated": run_isolated,
        "swarming": swarming,
        "swarming-bot": swarming_bot,
        "swarming-server": swarming_server,
    }


def pages() -> dict[str, str]:
    """Return the text of every page by the name of its file."""
    found = {f"{name}.md": "\n".join(page(name, command)) for name, command in programs().items()}
    links = "\n".join(f"- [`{name}`]({name}.md)" for name in programs())
    found["README.md"] = f"# Commands\n\nMade by `python -m tests.reference` from what `--help` says.\n\n{links}\n"
    return found


def page(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines of one program's page."""
    yield f"# {name}"
    for path, context in contexts(
        click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    ):
        if path != name:
            yield f"\n## {path}"
        yield f"\n```\n{context.get_help()}\n```"
    yield ""


def contexts(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """Yield a command and all below it, each with the words that call it."""
    yield context.command_path, context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            below = context.command.get_command(context, name)
            assert below is not None
            if not below.hidden and name != "help":
                yield from contexts(
                    click.Context(below, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH)
                )


def main() -> None:
    """Write all pages, and remove those of programs that are gone."""
    PLACE.mkdir(parents=True, exist_ok=True)
    for old in PLACE.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (PLACE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
