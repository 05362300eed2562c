# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of the lab: the official clients, streaming without a pause, and what became of each request."""

from __future__ import annotations

import csv
import itertools
import threading
import time
import typing as t
import urllib.request
from dataclasses import dataclass

import ollama
import openai

API = "http://127.0.0.1:8080"
STATISTICS = "http://127.0.0.1:8404/stats;csv"
# Long prompts: some requests are always with a replica that has not begun to answer them, the ones a failure could
# lose. No two of a row are alike, so that the clients do not fall into step.
CARDS = (100, 200, 400, 700)
WORDS = (8, 16, 24, 32, 40)
# Beyond whatever the service promises: what ends by this is a failure of the service.
PATIENCE_S = 150
# What a client does after an error, so that a service that refuses is not stormed.
PAUSE_S = 0.5
POLL_S = 0.1


@dataclass
class Request:
    """One request; times are by time.monotonic(). `begun`: when the client had the first byte of a good answer."""

    client: str
    submitted: float
    begun: float | None = None
    ended: float | None = None
    replica: str = ""
    whole: bool = False
    error: str = ""

    def pending(self, moment: float) -> bool:
        """Submitted and without a byte of its answer at that moment."""
        over = [end for end in (self.begun, self.ended) if end is not None and end <= moment]
        return self.submitted <= moment and not over


class Load:
    """Threads that each send one request after the other to one model."""

    def __init__(self, model: str, clients: int) -> None:
        self.model = model
        self.requests: list[Request] = []
        self._over = threading.Event()
        self._here = threading.local()
        hooks: dict[str, list[t.Callable[[t.Any], None]]] = {"response": [self._headers]}
        # No retries of their own: what the service loses shall be seen.
        self._openai = openai.OpenAI(
            base_url=f"{API}/v1",
            api_key="none",
            max_retries=0,
            timeout=PATIENCE_S,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )
        self._ollama = ollama.Client(host=API, timeout=PATIENCE_S, event_hooks=hooks)
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        deadline = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, number: int) -> None:
        ask = self._by_ollama if number % 3 == 2 else self._by_openai
        sizes = itertools.islice(itertools.cycle(itertools.product(CARDS, WORDS)), 7 * number, None)
        while not self._over.is_set():
            cards, words = next(sizes)
            request = Request(ask.__name__.removeprefix("_by_"), time.monotonic())
            self._here.request = request
            self.requests.append(request)
            try:
                request.whole = ask("Tell me about " + " ".join(f"card{n}" for n in range(cards)), words)
            except Exception as error:  # noqa: BLE001  the clients raise what their libraries raise
                request.error = f"{type(error).__name__}: {error}"[:300]
            request.ended = time.monotonic()
            if not request.whole:
                self._over.wait(PAUSE_S)

    def _headers(self, response: t.Any) -> None:
        request: Request = self._here.request
        request.replica = response.headers.get("X-Sdai-Replica", "")
        if response.status_code == 200:
            request.begun = time.monotonic()

    def _by_openai(self, prompt: str, words: int) -> bool:
        stream = self._openai.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": prompt}], stream=True, max_tokens=words
        )
        # A stream whose engine died ends in order, but without a reason.
        return [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1:] not in ([], [None])

    def _by_ollama(self, prompt: str, words: int) -> bool:
        # num_ctx as many tools send it: the frontend must make it harmless.
        parts = self._ollama.chat(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            options={"num_predict": words, "num_ctx": 4096},
        )
        return [part.done for part in parts][-1:] == [True]


class Watcher:
    """What HAProxy says of its servers, asked ten times a second."""

    def __init__(self) -> None:
        # (when, state by replica or nothing where HAProxy does not answer), one entry for each change.
        self.changes: list[tuple[float, dict[str, str]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            states = self.states()
            if not self.changes or self.changes[-1][1] != states:
                self.changes.append((time.monotonic(), states))

    @staticmethod
    def states() -> dict[str, str]:
        """UP or DOWN by replica; empty where HAProxy does not answer."""
        try:
            with urllib.request.urlopen(STATISTICS, timeout=2) as answer:
                rows = list(csv.DictReader(answer.read().decode().removeprefix("# ").splitlines()))
        except (OSError, ValueError):
            return {}
        servers = [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND") and row["pxname"] != "chat"]
        # Between its start and a server's first check HAProxy takes the server for good without knowing.
        return {row["svname"]: "INI" if "INI" in row["check_status"] else row["status"].split()[0] for row in servers}

    def first(self, moment: float, replica: str, *, up: bool) -> float | None:
        """When, after that moment, the replica was first seen UP, or otherwise."""
        now = ""
        for when, states in list(self.changes):
            now = states.get(replica, "DOWN")
            if when >= moment and (now == "UP") == up:
                return when
        return None
