"""The docs tell all there is, and nothing else. That what they show works is test_readme's."""

import ast
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import twinwire
from tests import ROOT, settings_docs
from tests.test_readme import DOCUMENTS, follow
from twinwire.cli import app
from twinwire.core.event import CONTROL_TYPES
from twinwire.core.feed import Mode, Why
from twinwire.errors import CloseReason, Refusal, Unsubscribed
from twinwire.hub import Hub
from twinwire.settings import ChannelRule, Settings
from twinwire.web.api import Api

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# Numbers that say how often, how long or where. Every other one is a limit.
NO_LIMITS = {
    "port", "workers", "heartbeat", "retry", "ping", "slice_ms", "read_bytes", "notsent_lowat",
    "drain_time",
}  # fmt: skip
OUTCOME = re.compile(
    r"\b(evicted|over it|then|refused|closes?d?|told|the same|is dead)\b", re.IGNORECASE
)


def rows(heading: str) -> set[tuple[str, ...]]:
    """The rows of the table below a heading of docs/protocol.md."""
    _, _, rest = PROTOCOL.partition(f"\n## {heading}\n")
    section, _, _ = rest.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines}


def firsts(heading: str, count: int) -> set[tuple[str, ...]]:
    return {row[:count] for row in rows(heading)}


def yes(condition: bool) -> str:
    return "yes" if condition else "no"


def names(choices: type[Enum]) -> Iterable[str]:
    return [choice.value for choice in choices]


def test_every_close_reason_is_in_the_docs_and_no_other() -> None:
    assert firsts("Close reasons", 3) == {
        (str(r.code), r.text, yes(r.reconnect)) for r in CloseReason
    }


def test_every_error_is_in_the_docs_and_no_other() -> None:
    assert firsts("Errors", 3) == {(str(r.value[0]), r.value[1], yes(r.value[2])) for r in Refusal}


def test_every_reason_of_an_unsubscribe_is_in_the_docs_and_no_other() -> None:
    assert firsts("Why a subscription ends", 2) == {(str(u.code), u.text) for u in Unsubscribed}


@pytest.mark.parametrize("heading", ["Close reasons", "Errors", "Why a subscription ends"])
def test_each_row_says_when_it_happens(heading: str) -> None:
    assert all(row[-1] for row in rows(heading))


@pytest.mark.parametrize("word", [*names(Mode), *names(Why), *CONTROL_TYPES])
def test_what_a_stream_may_say_is_in_the_docs(word: str) -> None:
    assert f"`{word}`" in PROTOCOL


async def test_each_method_of_the_api_has_an_example() -> None:
    async with Hub() as hub:
        methods = {*Api(hub)._methods, "batch"}
    shown = re.findall(r"curl -s http://127.0.0.1:8000/api/(\w+)", PROTOCOL)
    assert set(shown) == methods


@pytest.mark.parametrize("name", [n for n in twinwire.__all__ if not n.startswith("_")])
def test_each_public_name_is_in_the_docs(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", (ROOT / "docs" / "python.md").read_text())


@pytest.mark.parametrize("command", ["serve", "publish", "tail", "demo", "bench"])
def test_each_command_and_its_options_are_in_the_docs(command: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    commands = group.commands
    assert f"\n## {command}\n" in page
    named = commands[command]
    inner = named.commands.values() if isinstance(named, TyperGroup) else [named]
    for parameter in [parameter for one in inner for parameter in one.params]:
        for option in parameter.opts:
            assert not option.startswith("--") or option in page, option
    assert all(f"`{command} {name}`" in page for name in getattr(named, "commands", ()))
    headings = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert set(headings) == set(commands)


def test_the_page_of_settings_is_up_to_date() -> None:
    assert settings_docs.PAGE.read_text() == settings_docs.page(), "run scripts/settings-docs"


def test_each_setting_stands_in_one_group() -> None:
    listed = [name for _, members in settings_docs.groups() for name in members]
    assert sorted(listed) == sorted(Settings.model_fields)
    assert all(title for title, _ in settings_docs.groups())


def test_each_setting_says_what_it_is_and_each_limit_what_happens_there() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        if field.annotation in (int, float) and name not in NO_LIMITS:
            assert OUTCOME.search(field.description), f"{name}: what happens at the limit?"
    for name, field in ChannelRule.model_fields.items():
        assert field.description, name
    assert set(Settings.model_fields) >= NO_LIMITS


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(
        r"`((?:src|tests|docs|bench|examples|scripts)/[\w./-]+)", page.read_text()
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_does_what_it_says(example: Path, tmp_path: Path) -> None:
    told = ast.get_docstring(ast.parse(example.read_text()))
    assert told is not None
    assert "$ " in told
    follow(told, tmp_path)
