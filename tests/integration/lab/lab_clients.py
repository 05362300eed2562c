# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users of the service: official clients that stream again and again while a test changes it."""

from __future__ import annotations

import threading
import typing as t
from collections import Counter

import openai
from lab_hosts import API

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# The stand-in says exactly as many words as it is asked for, so that a lost one shows.
WORDS = 120
# Between two requests of one client: the lab, its clients and the change that is tested share a machine.
PAUSE_S = 1.0


class Clients:
    """One streaming client for each model, from entering to leaving; ``leaving`` names models that may disappear."""

    def __init__(self, models: Iterable[str], *, leaving: Collection[str] = ()) -> None:
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self._leaving = leaving
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(model,)) for model in sorted(models)]

    def __enter__(self) -> t.Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _use(self, model: str) -> None:
        # Without the client's own second attempts: each request counts.
        client = openai.OpenAI(base_url=f"{API}/v1", api_key="none", timeout=300, max_retries=0)
        while not self._stop.is_set():
            try:
                stream = client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Talk."}], stream=True, max_tokens=WORDS
                )
                choices = [chunk.choices[0] for chunk in stream if chunk.choices]
            except openai.NotFoundError as error:
                if model in self._leaving:
                    return
                self.faults.append(f"{model}: {error}")
            except openai.OpenAIError as error:
                self.faults.append(f"{model}: {error!r}")
                self._stop.wait(0.5)
            else:
                self._judge(model, choices)
                self._stop.wait(PAUSE_S)

    def _judge(self, model: str, choices: list[t.Any]) -> None:
        words = sum(1 for choice in choices if choice.delta.content)
        if words != WORDS or choices[-1].finish_reason is None:
            self.faults.append(f"{model}: a stream ended after {words} of {WORDS} words")
        else:
            self.ended[model] += 1
