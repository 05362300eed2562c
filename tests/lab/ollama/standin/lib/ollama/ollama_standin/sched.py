# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which engines run: loading, reloading, evicting, expiring, and proof of life, as Ollama's scheduler does it."""

from __future__ import annotations

import sys
import threading
import time
import typing as t

from . import faults, gpus, needs, options, place
from .config import Config
from .engine import ClientGone, Engine, LoadError
from .gojson import FOREVER, ApiError
from .options import Launch
from .store import Model

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_PING_TRIES = 2
Gone = t.Callable[[], bool]


class Loaded:
    """One engine and what /api/ps says about it."""

    def __init__(self, model: Model, launch: Launch, parallel: int, engine: Engine, keep: int) -> None:
        self.blob = str(model.weights)
        self.blob_bytes = model.weights.stat().st_size
        self.name, self.digest, self.details = (
            model.name.shortest,
            model.digest,
            {**model.details(), "parent_model": ""},
        )
        self.details["parent_model"] = ""
        self.launch, self.parallel, self.engine, self.keep = launch, parallel, engine, keep
        self.users = 0
        self.lock = threading.Lock()  # held while somebody asks whether the engine lives; /api/ps waits for it
        self.used_ns = time.time_ns()

    @property
    def expires_ns(self) -> int:
        return self.used_ns + self.keep

    def alive(self) -> bool:
        for _ in range(_PING_TRIES):
            with self.lock:
                if self.engine.ping():
                    return True
            if self.engine.exited:
                return False
        return False


class Scheduler:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.cards: list[gpus.Card] = []
        self.needs = needs.load()
        self.loaded: list[Loaded] = []
        self.changed = threading.Condition()
        self.turn = _Turns()

    def discover(self) -> None:
        """Once, at start: a card that appears later is never used."""
        time.sleep(self.config.discovery_seconds)
        self.cards = gpus.discover(self.config)
        for card in self.cards:
            sys.stderr.write(
                f'level=INFO source=types.go msg="inference compute" id={card.key} library={card.api} '
                f'name="{card.name}" libdirs=ollama,{card.library} total="{card.vram_mib} MiB"\n'
            )
        if not self.cards:
            sys.stderr.write('level=INFO source=types.go msg="inference compute" id=cpu library=cpu\n')
        sys.stderr.flush()
        threading.Thread(target=self._expire, daemon=True).start()

    def _present(self) -> list[gpus.Card]:
        now = {(card.key, card.library) for card in gpus.discover(self.config)} if self.cards else set()
        return [card for card in self.cards if (card.key, card.library) in now]

    def acquire(self, model: Model, opts: dict[str, t.Any], keep: int | None, shift: bool, gone: Gone) -> Loaded:
        """The engine for a request, loaded if need be; give it back with `release`."""
        info = model.gguf
        trained = info.number("context_length")
        launch = options.launch(opts, shift, place.context_default(self.config, self.cards), trained)
        blob = str(model.weights)
        if not self.turn.enter(self.config.max_queue, gone):
            raise ApiError(503, _BUSY)
        try:
            loaded = self._find(blob)
            if loaded is not None and (loaded.launch.reloads(launch) or not loaded.alive()):
                self._unload_when_idle(loaded, gone, dead=not loaded.launch.reloads(launch))
                loaded = None
            if loaded is None:
                self._make_room(gone)
                loaded = self._load(model, launch, keep, gone)
            with self.changed:
                loaded.users += 1
                loaded.used_ns = time.time_ns()
                if keep is not None:
                    loaded.keep = keep
                self.changed.notify_all()
            return loaded
        finally:
            self.turn.leave()

    def release(self, loaded: Loaded) -> None:
        with self.changed:
            loaded.users -= 1
            loaded.used_ns = time.time_ns()
            self.changed.notify_all()

    def unload(self, model: Model) -> None:
        """keep_alive 0 without a prompt: at once, or when the running streams end."""
        loaded = self._find(str(model.weights))
        if loaded is None:
            return
        with self.changed:
            loaded.keep = 0
            loaded.used_ns = time.time_ns()
            if loaded.users == 0:
                self._drop(loaded)
            self.changed.notify_all()

    def listing(self) -> list[Loaded]:
        """Longest remaining time first. Blocks while one of them is being asked for a sign of life."""
        with self.changed:
            found = list(self.loaded)
        for loaded in found:
            with loaded.lock:
                pass
        return sorted(found, key=lambda item: item.expires_ns, reverse=True)

    def sizes(self, loaded: Loaded) -> tuple[int, int]:
        """(size, size_vram) as reported; both lies of the real server can be had on demand."""
        if faults.active("ps-log-not-understood", self.config.port):
            return loaded.blob_bytes, loaded.blob_bytes
        placement = loaded.engine.placement
        if faults.active("ps-lies", self.config.port):
            return placement.size, placement.size
        return placement.size, placement.size_vram

    def stop(self) -> None:
        for loaded in self.loaded:
            loaded.engine.kill()

    def _find(self, blob: str) -> Loaded | None:
        with self.changed:
            return next((item for item in self.loaded if item.blob == blob), None)

    def _drop(self, loaded: Loaded) -> None:
        if loaded in self.loaded:
            self.loaded.remove(loaded)
            loaded.engine.kill()

    def _unload_when_idle(self, loaded: Loaded, gone: Gone, *, dead: bool = False) -> None:
        with self.changed:
            while loaded.users and not dead and loaded in self.loaded:
                self.changed.wait(0.1)
                if gone():
                    raise ClientGone
            self._drop(loaded)
            self.changed.notify_all()

    def _make_room(self, gone: Gone) -> None:
        limit = self.config.max_loaded or 3 * max(1, len(self.cards))
        while True:
            with self.changed:
                if len(self.loaded) < limit:
                    return
                idle = [item for item in self.loaded if item.users == 0] or list(self.loaded)
                victim = min(idle, key=lambda item: item.expires_ns)
            self._unload_when_idle(victim, gone)

    def _load(self, model: Model, launch: Launch, keep: int | None, gone: Gone) -> Loaded:
        info = model.gguf
        parallel = 1 if info.embedding else self.config.parallel
        entry = self.needs.get(info.title)
        try:
            placement = place.place(place.Wish(self.config, entry, info, launch, parallel), self._present())
            engine = Engine(self.config, model.weights, placement, launch, parallel=parallel, embedding=info.embedding)
            engine.start(gone)
        except needs.NoRow as error:
            raise ApiError(500, f"llama-server process has terminated: exit status 1: {error}") from None
        except LoadError as error:
            raise ApiError(500, str(error)) from None
        loaded = Loaded(model, launch, parallel, engine, self.config.keep_alive if keep is None else keep)
        with self.changed:
            self.loaded.append(loaded)
        return loaded

    def _expire(self) -> None:
        while True:
            with self.changed:
                now = time.time_ns()
                for item in [i for i in self.loaded if not i.users and i.keep != FOREVER and i.expires_ns <= now]:
                    self._drop(item)
                due = [i.expires_ns for i in self.loaded if not i.users and i.keep != FOREVER]
                self.changed.wait(max(0.0, (min(due) - now) / 1e9) if due else None)


class _Turns:
    """Requests come to the scheduler one after the other, in the order of their arrival."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiting: list[object] = []
        self.busy = False

    def enter(self, limit: int, gone: Gone) -> bool:
        """False when more than `limit` wait already."""
        ticket = object()
        with self.condition:
            if self.busy and len(self.waiting) >= limit:
                return False
            self.waiting.append(ticket)
            try:
                while self.busy or self.waiting[0] is not ticket:
                    self.condition.wait(0.1)
                    if gone():
                        raise ClientGone
                self.busy = True
            finally:
                self.waiting.remove(ticket)
        return True

    def leave(self) -> None:
        with self.condition:
            self.busy = False
            self.condition.notify_all()
