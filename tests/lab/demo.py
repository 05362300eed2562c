# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo`: the lab, the site deployed on it, one chat with each official client, the URLs and a login.

Safe to run again at any time, also after it was killed: each step finds out what is there already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ollama
import openai

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
URL = "http://127.0.0.1:8080"
CHAT = "http://127.0.0.1:3000"
PASSWORD = ROOT / ".lab" / "chat-password"
STATISTICS = "http://127.0.0.1:8404/stats"
MODEL = "llama3.1:8b"
QUESTION = "In one sentence: why do old GPUs make good LLM servers?"


def step(title: str, command: list[str | Path]) -> None:
    print(f"\n== {title}", flush=True)
    started = time.monotonic()
    environment = {
        **os.environ,
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
        "ANSIBLE_HOME": str(ROOT / ".ansible"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    code = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode
    if code:
        sys.exit(f"'{title}' failed (exit {code}). What it said is above; `make demo` can simply be run again.")
    print(f"== {title}: {time.monotonic() - started:.0f} s", flush=True)


def chat_with_openai() -> None:
    print(f"\n== openai client, {MODEL}, streamed\nQ: {QUESTION}\nA: ", end="", flush=True)
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", timeout=60)
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream=True, max_tokens=60
    )
    words = 0
    for chunk in stream:
        piece = (chunk.choices[0].delta.content if chunk.choices else None) or ""
        words += bool(piece)
        print(piece, end="", flush=True)
    print()
    if not words:
        sys.exit("The stream held no words: the service does not answer.")


def chat_with_ollama() -> None:
    client = ollama.Client(host=URL, timeout=60)
    models = sorted(model.model or "" for model in client.list().models)
    model = next((name for name in models if name != MODEL), MODEL)
    print(f"\n== ollama client, {model}, streamed\nQ: {QUESTION}\nA: ", end="", flush=True)
    words = 0
    for part in client.chat(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        options={"num_predict": 60},
    ):
        words += bool(part.message.content)
        print(part.message.content or "", end="", flush=True)
    print(f"\n\nModels on offer: {', '.join(models)}")
    if not words:
        sys.exit("The stream held no words: the service does not answer.")


def show_what_does_not_fit() -> None:
    plan = json.loads((ROOT / "inventories" / "lab" / ".plan" / "plan.json").read_text())
    for entry in plan["unplaced"]:
        print(f"\nNot on offer: {entry['model']}. It {entry['reason']}.\n  -> {entry['remedy']}")


def main() -> None:
    started = time.monotonic()
    step("The lab", [sys.executable, ROOT / "tests/lab/lab.py", "up"])
    step("The site", [BIN / "ansible-playbook", "aivailable.sdai.site", "-i", "inventories/lab"])
    chat_with_openai()
    chat_with_ollama()
    show_what_does_not_fit()
    print(f"""
The service is up (after {time.monotonic() - started:.0f} s).
  chat page    {CHAT}   log in as admin@localhost with {PASSWORD.read_text()}
  OpenAI API   {URL}/v1
  Ollama API   {URL}
  statistics   {STATISTICS}
GPUs, Ollama and the model registry of this lab are stand-ins; everything else is real.
Remove it all with `make demo-down`.""")


if __name__ == "__main__":
    main()
