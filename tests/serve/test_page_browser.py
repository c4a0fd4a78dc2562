"""The page in a browser, against the real routes: type, hear, copy a voice, save, and whatever goes wrong."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fake_service import FakeService
from harness import KEY, Running, running
from playwright.sync_api import expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as of `apt-get install chromium`")

ENGLISH = {"locale": "en-US"}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def at(tiny_model: Path, home: Path, service: FakeService) -> Iterator[Running]:
    with running(tiny_model, service) as server:
        yield server


@pytest.fixture
def complaints() -> list[str]:
    """What the browser says in its console, answers of 400 and above among it; a test removes what it provokes."""
    return []


@pytest.fixture
def open_page(browser: Any, at: Running, complaints: list[str]) -> Iterator[Open]:
    """A function that opens the page; afterwards nothing may be in the console, nothing asked for elsewhere."""
    elsewhere: list[str] = []

    def note_request(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            elsewhere.append(request.url)

    def page_of(url: str = at.url, **options: Any) -> Any:
        page = browser.new_context(**(ENGLISH | options), permissions=["microphone"]).new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", note_request)
        page.goto(url)
        return page

    yield page_of
    for context in browser.contexts:
        context.close()
    assert complaints == []
    assert elsewhere == []


@pytest.fixture
def page(open_page: Open) -> Any:
    page = open_page()
    expect(page.locator("#voice option")).not_to_have_count(0)
    return page


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three seconds that a prompt can be."""
    at = np.arange(3 * 16000) / 16000
    samples = 0.3 * np.sin(2 * np.pi * 150 * at + 2 * np.sin(2 * np.pi * 3 * at)) * np.abs(np.sin(2 * np.pi * at))
    soundfile.write(tmp_path / "prompt.wav", samples, 16000)
    return tmp_path / "prompt.wav"


def played_to_the_end(page: Any) -> None:
    expect(page.locator("#download")).to_be_visible()
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


def give_recording(page: Any, file: Path) -> None:
    page.click("label[for=source-recording]")
    page.set_input_files("#file", file)
    expect(page.locator("#recording")).to_be_visible()


def test_a_text_is_heard_and_saved(page: Any) -> None:
    page.fill("#text", "Good evening. The fire is lit, and there is tea.")
    page.click("#settings summary")
    page.fill("#seed", "7")
    with page.expect_request("**/v1/audio/speech") as asked:
        page.click("#speak")
    assert asked.value.post_data_json["voice"] == page.input_value("#voice")
    played_to_the_end(page)
    expect(page.locator("#status")).to_contain_text("0.4 s of speech")
    for name in ("First audio (TTFA)", "Heard here after", "Real-time factor", "Interruptions"):
        expect(page.locator("#figures")).to_contain_text(name)
    for stage in ("Queue", "LM, tokens", "Flow", "Vocoder"):
        expect(page.locator("#stage-list")).to_contain_text(stage)
    with page.expect_download() as saved:
        page.click("#download")
    assert saved.value.suggested_filename == "fireside-7.wav"
    samples, rate = soundfile.read(io.BytesIO(Path(saved.value.path()).read_bytes()))
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(0.4 * rate)) / rate)
    assert rate == 24_000
    np.testing.assert_allclose(samples, tone, atol=2e-4)


def test_it_sounds_before_all_is_made(page: Any, service: FakeService) -> None:
    service.slow = 0.09  # seconds for each 0.1 s of audio
    page.fill("#text", "!slow " + "and on it goes " * 10)
    page.click("#speak")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    first = float(page.input_value("#position"))
    assert service.active == 1
    page.wait_for_timeout(300)
    assert float(page.input_value("#position")) > first
    played_to_the_end(page)


def test_stop_frees_the_stream_at_once(page: Any, service: FakeService) -> None:
    page.fill("#text", "!slow " + "and on it goes " * 100)
    page.click("#speak")
    expect(page.locator("#result")).to_be_visible()
    page.keyboard.press("Escape")
    deadline = time.monotonic() + 3
    expect(page.locator("#status")).to_contain_text("Stopped after")
    expect(page.locator("#download")).to_be_visible()
    while not service.freed and time.monotonic() < deadline:
        page.wait_for_timeout(10)
    assert service.freed
    assert service.active == 0


def test_the_audio_can_be_heard_again_from_anywhere(page: Any) -> None:
    page.fill("#text", "and on it goes " * 8)
    page.click("#speak")
    played_to_the_end(page)
    page.locator("#position").focus()
    page.keyboard.press("Home")
    assert float(page.input_value("#position")) == 0
    page.click("#play")
    expect(page.locator("#position")).not_to_have_value("0")
    page.click("#play")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    assert 0 < float(page.input_value("#position")) < 1.2


def test_a_voice_is_copied_from_a_file(page: Any, recording: Path) -> None:
    give_recording(page, recording)
    expect(page.locator("#recording-name")).to_have_text("prompt.wav · 3.0 s")
    page.click("#speak")
    expect(page.locator("#error")).to_have_text("Please confirm that the speaker agrees.")
    expect(page.locator("#consent")).to_be_focused()
    page.check("#consent")
    with page.expect_request("**/v1/audio/speech") as asked:
        page.click("#speak")
    body = asked.value.post_data_json
    assert "voice" not in body
    assert "agrees" in body["consent"]
    played_to_the_end(page)
    expect(page.locator("#error")).to_be_hidden()


def test_a_voice_is_copied_from_the_microphone(page: Any) -> None:
    page.click("label[for=source-recording]")
    page.click("#record")
    expect(page.locator("#read-aloud")).to_contain_text("Read this aloud")
    expect(page.locator("#record-label")).to_have_text("Stop · 1 s")
    page.wait_for_timeout(500)
    page.click("#record")
    expect(page.locator("#recording-name")).to_have_text(re.compile(r"Recording · [12]\.\d s"))
    assert page.input_value("#transcript").startswith("On quiet evenings")
    expect(page.locator("#record-label")).to_have_text("Record")


def test_a_voice_is_kept_and_deleted(page: Any, recording: Path) -> None:
    give_recording(page, recording)
    page.check("#consent")
    page.click("#keep summary")
    page.click("#keep-button")
    expect(page.locator("#error")).to_have_text("Give the voice a name first.")
    page.fill("#keep-name", "me")
    page.click("#keep-button")
    expect(page.locator("#status")).to_contain_text("“me” is in the list now")
    assert page.input_value("#voice") == "me"
    page.reload()
    expect(page.locator("#voice")).to_have_value("me")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#delete")
    expect(page.locator("#status")).to_contain_text("deleted")
    expect(page.locator("#voice option[value=me]")).to_have_count(0)


def test_a_file_that_is_no_audio_is_refused(page: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader,")
    page.click("label[for=source-recording]")
    page.set_input_files("#file", tmp_path / "letter.txt")
    expect(page.locator("#error")).to_contain_text("“letter.txt” cannot be read as audio")
    expect(page.locator("#recording")).to_be_hidden()


def test_what_fails_on_the_way_is_told_and_what_was_made_is_kept(page: Any) -> None:
    page.fill("#text", "!fail after the first chunk, please")
    page.click("#speak")
    expect(page.locator("#error")).to_have_text("The model failed on this text.")
    expect(page.locator("#download")).to_be_visible()
    page.fill("#text", "  ")
    page.click("#speak")
    expect(page.locator("#error")).to_have_text("Type a text first.")


def test_a_busy_server_says_when_to_come_again(page: Any, service: FakeService, complaints: list[str]) -> None:
    service.max_streams = 0
    page.click("#speak")
    expect(page.locator("#error")).to_contain_text("Try again in 3 s.")
    expect(page.locator("#speak")).to_be_enabled()
    assert "429" in complaints.pop()


def test_a_key_is_asked_for_and_used(tiny_model: Path, home: Path, open_page: Open, complaints: list[str]) -> None:
    with running(tiny_model, keys={"page": KEY}) as locked:
        page = open_page(locked.url)
        expect(page.locator("#key-form")).to_be_visible()
        assert complaints == []
        page.fill("#key", "a-key-that-is-not-known")
        page.click("#key-form button")
        expect(page.locator("#error")).to_contain_text("key")
        assert "401" in complaints.pop()
        page.fill("#key", KEY)
        page.click("#key-form button")
        expect(page.locator("#key-form")).to_be_hidden()
        page.click("#speak")
        played_to_the_end(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "speak"), [("en-GB", "Speak"), ("zh-CN", "合成")])
def test_it_fits_a_phone_in_both_languages(
    open_page: Open, recording: Path, locale: str, speak: str, scheme: str
) -> None:
    page = open_page(**PHONE, locale=locale, color_scheme=scheme)
    expect(page.locator("#speak")).to_have_text(speak)
    page.tap("#speak")
    expect(page.locator("#download")).to_be_visible()
    give_recording(page, recording)
    page.tap("#settings summary")
    page.tap("#keep summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for element in page.locator("button:visible, select:visible, .button:visible, textarea:visible").all():
        box = element.bounding_box()
        assert box["height"] >= 36, element.inner_text()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_the_language_can_be_changed_and_is_remembered(page: Any) -> None:
    page.click("button[lang=zh]")
    expect(page.locator("#speak")).to_have_text("合成")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator("#text")).to_have_value(re.compile("晚上好"))
    page.fill("#text", "My own text.")
    page.reload()
    expect(page.locator("#speak")).to_have_text("合成")


def test_the_keyboard_is_enough(page: Any) -> None:
    page.locator("#text").focus()
    page.keyboard.press("Control+Enter")
    played_to_the_end(page)
    page.locator("#source-list").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#recording-panel")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#list-panel")).to_be_visible()
    reached = set()
    page.locator("#text").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"source-list", "voice", "preview", "speak", "play", "position", "download", "SUMMARY"} <= reached
