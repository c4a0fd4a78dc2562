"""The page's files: served as they should be, complete, in two languages, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fireside.serve.page import FOLDER, routes

SCRIPTS = sorted(FOLDER.glob("*.js"))
LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=routes()))


class Page(HTMLParser):
    """What index.html asks for: links, ids, and the keys of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.keys: set[str] = set()
        self.labels: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self.inline: list[str] = []
        self.feed((FOLDER / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self.ids += [values["id"]] if values.get("id") else []
        self.keys |= {value for name, value in attrs if name.startswith("data-t") and value}
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        if tag == "label":
            self.labels.add(values["for"] or "")
        if tag in ("input", "select", "textarea", "meter"):
            self.fields.append(values)


def strings() -> dict[str, dict[str, str]]:
    """The words of strings.js: language to key to text."""
    source = (FOLDER / "strings.js").read_text(encoding="utf-8")
    table = source[source.index("STRINGS = {") : source.index("\n};")]
    found = {}
    for language in LANGUAGES:
        part = table[table.index(f"\n  {language}: {{") :]
        part = part[: part.index("\n  },")]
        found[language] = dict(re.findall(r"^    (\w+):\s+(\".*?\"),$", part, re.M | re.S))
    return found


def test_every_file_the_page_asks_for_is_served(client: TestClient) -> None:
    wanted = [link for link in Page().links if link.startswith("page/")]
    for script in SCRIPTS:
        wanted += [f"page/{name}" for name in re.findall(r'from "\./([\w-]+\.js)"', script.read_text(encoding="utf-8"))]
    assert {f"page/{script.name}" for script in SCRIPTS} == {name for name in wanted if name.endswith(".js")}
    for path in ["", *wanted]:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        kind = answer.headers["content-type"]
        expected = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/html"}
        assert kind.startswith(expected[Path(path).suffix]), (path, kind)


def test_nothing_but_ourselves_may_run_or_load(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert Page().inline == []
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://", text), f"{file.name} names another server"


@pytest.mark.parametrize("path", ["__init__.py", "%2e%2e/__init__.py", "../__init__.py", "nothing.js"])
def test_only_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_a_file_is_sent_again_only_when_it_changed(client: TestClient) -> None:
    first = client.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_both_languages_have_the_same_words_and_all_are_used() -> None:
    english, chinese = (strings()[language] for language in LANGUAGES)
    assert len(english) > 50
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
    source = "".join(script.read_text(encoding="utf-8") for script in SCRIPTS if script.name != "strings.js")
    mentioned = Page().keys | set(re.findall(r'"(\w+)"', source))
    assert Page().keys <= set(english)
    assert set(re.findall(r'(?:\bt\(|new Message\()"(\w+)"', source)) <= set(english)
    assert set(english) - mentioned == {"title"}


def test_ids_are_there_once_and_every_field_has_a_name() -> None:
    page = Page()
    assert len(page.ids) == len(set(page.ids))
    source = "".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    assert set(re.findall(r'\$\("([\w-]+)"\)', source)) <= set(page.ids)
    for field in page.fields:
        assert field["id"] in page.labels or field.get("data-t-label"), field
