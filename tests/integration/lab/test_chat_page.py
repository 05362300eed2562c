# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chat page as a user has it: in a real Chromium, through the frontend's port."""

from __future__ import annotations

import re
import shutil
import typing as t
import urllib.error
import uuid

import pytest
from lab_chat import URL, add_user, ask_page
from lab_hosts import ADDRESSES, ROOT, Host
from playwright.sync_api import Page, expect, sync_playwright

if t.TYPE_CHECKING:
    from collections.abc import Iterator

# The picture of a chat and, after a failure, what there was to see.
PICTURES = ROOT / ".lab" / "pictures"
# Nothing that a browser asks its maker for by itself.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MODEL = "gemma3:4b"
SLOW_MS = 60_000


@pytest.fixture
def page() -> Iterator[Page]:
    program = shutil.which("chromium")
    assert program, "no chromium: run tests/tools/system-packages lab"
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1100, "height": 640})
        opened.set_default_timeout(SLOW_MS)
        try:
            yield opened
        finally:
            opened.screenshot(path=PICTURES / "last.png")
            browser.close()


@pytest.fixture
def user() -> dict[str, str]:
    return add_user()


def log_in(page: Page, user: dict[str, str]) -> None:
    # What is new in this version is told once, when the page pleases.
    news = page.get_by_role("button", name="Okay, Let's Go!")
    page.add_locator_handler(news, lambda button: button.click())
    page.goto(URL)
    page.fill("input[type=email]", user["email"])
    page.fill("input[type=password]", user["password"])
    page.click("button[type=submit]")


def choose(page: Page, model: str) -> None:
    page.click("#model-selector-model-button")
    page.get_by_role("option", name=f"Select {model} model").click()
    expect(page.locator("#model-selector-model-button")).to_contain_text(model)


def ask(page: Page, question: str, number: int) -> list[str]:
    """The texts that the answer has on its way to the whole one; ``number`` of the answer in the chat, from 0."""
    page.locator("#chat-input").click()
    page.keyboard.type(question)
    page.click("#send-message-button")
    answer = page.locator(".chat-assistant").nth(number)
    answer.wait_for()
    seen: list[str] = []

    def ended() -> bool:
        text = answer.inner_text().strip()
        if text and (not seen or seen[-1] != text):
            seen.append(text)
        # The buttons below an answer come with its end.
        return page.locator(".copy-response-button").count() > number

    for _attempt in range(1200):
        if ended():
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail(f"the answer did not end; seen last: {seen[-1:]}")
    return seen


def test_a_user_logs_in_chooses_a_model_and_has_a_chat(page: Page, user: dict[str, str]) -> None:
    log_in(page, user)
    choose(page, MODEL)
    first = ask(page, "Why do old GPUs make good LLM servers?", 0)
    assert len(first) > 3, f"not streamed: {first}"
    assert all(part != first[-1] for part in first[:-1])
    second = ask(page, "What is the capital of France? Answer with one word.", 1)
    assert "Paris" in second[-1]
    assert page.locator(".chat-assistant").count() == 2
    assert re.search(r"/c/[0-9a-f-]{36}$", page.url)
    # The picture of the README: without the hint that the pointer causes.
    page.mouse.move(0, 0)
    page.get_by_text("Stop", exact=True).wait_for(state="hidden")
    page.screenshot(path=PICTURES / "chat.png")


def test_the_page_listens_for_the_frontends_only(hosts: dict[str, Host]) -> None:
    probe = f"curl -s -o /dev/null -m 3 -w '%{{http_code}}' http://{ADDRESSES['webui1']}:8081/health; true"
    assert hosts["frontend1"].run(probe) == "200"
    assert hosts["gpu2"].run(probe) == "000"


def test_nobody_signs_up_by_himself() -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask_page(
            "v1/auths/signup",
            body={"email": "somebody@example.org", "password": uuid.uuid4().hex, "name": "Somebody"},
        )
    assert refused.value.code == 403
