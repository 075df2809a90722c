"""The page is one well-formed file that loads nothing, and says what the figures do."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.browser import browser
from tests.compare.made import figures, whole
from twinwire.compare.figures import ROWS, Figures
from twinwire.compare.page import difference, page, warned

VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Fails on elements that are not closed in their order; keeps what stands in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def read(made: Figures) -> Reader:
    reader = Reader()
    reader.feed(page(made))
    reader.close()
    assert reader.open == []
    return reader


RUNS = {
    "whole": whole(),
    "empty": figures(),
    "deployment": whole(own=False, absent={"memory": "not visible from here"}),
    "one wire": figures(
        {"p50": ([1.0], [])}, trouble={"ws": "refused"}, curves={"sse": [1.0] * 201}
    ),
    "no proxies": whole(passages=[]),
}


@pytest.mark.parametrize("made", RUNS.values(), ids=RUNS)
def test_it_is_well_formed_whatever_was_measured(made: Figures) -> None:
    read(made)


def test_it_loads_nothing() -> None:
    text = page(whole())
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(|<script|src=", text)


def test_each_figure_says_what_it_means() -> None:
    text = read(whole()).text
    for row in ROWS.values():
        assert row.title in text
        assert row.means in text


def test_each_picture_has_a_title_and_a_description_with_its_figures() -> None:
    pictures = re.findall(r"<svg.*?</svg>", page(whole()), re.DOTALL)
    assert len(pictures) == len(ROWS) + 3  # the curve, and two proxies
    for picture in pictures:
        svg = ElementTree.fromstring(picture)
        assert svg.get("role") == "img"
        assert svg.findtext("title")
        assert re.search(r"SSE\b.*WebSocket", svg.findtext("desc") or "", re.DOTALL)


def test_heads_of_tables_are_marked_as_such() -> None:
    seen = read(whole()).seen
    heads = [attrs for tag, attrs in seen if tag == "th"]
    assert heads
    assert all(attrs.get("scope") for attrs in heads)
    assert sum(tag == "caption" for tag, _ in seen) == 2


def test_what_came_from_elsewhere_cannot_be_markup() -> None:
    evil = whole(target="<script>alert(1)</script>", own=False, trouble={"ws": "<b>no</b>"})
    reader = read(evil)
    assert not {"script", "b"} & {tag for tag, _ in reader.seen}
    assert "<script>alert(1)</script>" in reader.text
    assert "<one> & only" in reader.text


def test_the_outcome_of_a_row_is_in_a_few_words() -> None:
    made = figures(
        {"memory": ([10.0], [20.0]), "p50": ([1.0, 2.0], [1.5, 1.9]), "cpu": ([1.0], [])}
    )
    assert difference(made, "memory") == "SSE 50 % less"
    assert difference(made, "p50") == "no difference"
    assert difference(made, "cpu") == ""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trouble": {"ws": "refused"}}, "WebSocket does not come through here: refused."),
        ({"received": {"sse": [599, 600]}}, "Over SSE 599 of 600 deliveries came in time."),
        ({"busy": {"ws": [0.9]}}, "The load client was busy for 90 % of the time"),
    ],
)
def test_what_makes_figures_doubtful_is_said_on_top(fields: dict[str, object], said: str) -> None:
    made = whole(**fields)
    assert any(warning.startswith(said) for warning in warned(made))
    assert said in read(made).text


async def test_it_fits_a_phone(chromium: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(whole()))
    async with browser(chromium) as launched:
        narrow = await launched.new_page(viewport={"width": 375, "height": 800})
        await narrow.goto(file.as_uri())
        assert await narrow.evaluate("document.documentElement.scrollWidth") == 375
