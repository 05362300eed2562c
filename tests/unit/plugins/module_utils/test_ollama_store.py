# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names as Ollama writes them, and the arithmetic of a pull's progress."""

from __future__ import annotations

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_pull import Tally
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_store import Name
from hypothesis import given
from hypothesis import strategies as st

PART = st.text("abcXYZ0189._-", min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))


@pytest.mark.parametrize(
    ("text", "short", "path"),
    [
        ("tiny", "tiny:latest", "manifests/registry.ollama.ai/library/tiny/latest"),
        ("llama3.1:8b", "llama3.1:8b", "manifests/registry.ollama.ai/library/llama3.1/8b"),
        ("ns/tiny:v1", "ns/tiny:v1", "manifests/registry.ollama.ai/ns/tiny/v1"),
        ("hf.co/ns/R:Q4", "hf.co/ns/R:Q4", "manifests/hf.co/ns/R/Q4"),
        ("m:5000/library/tiny:v1", "m:5000/library/tiny:v1", "manifests/m:5000/library/tiny/v1"),
    ],
)
def test_names(text: str, short: str, path: str) -> None:
    name = Name.parse(text)
    assert (str(name), name.manifest_path) == (short, path)


@pytest.mark.parametrize("text", ["", ":", "a:", "/a", "a//b", "a/b/c/d", "..", "../x", "a/../b", "x:.."])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a model name"):
        Name.parse(text)


@given(host=PART, namespace=PART, model=PART, tag=PART)
def test_shortest_spelling_is_read_back(host: str, namespace: str, model: str, tag: str) -> None:
    name = Name(host=host, namespace=namespace, model=model, tag=tag)
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize(
    ("name", "registry", "mirrored"),
    [
        ("tiny", "m:5000/library", "m:5000/library/tiny:latest"),
        ("tiny", "m:5000", "m:5000/library/tiny:latest"),
        ("tiny", "m:5000/cache", "m:5000/cache/tiny:latest"),
        ("ns/tiny", "m:5000/library", "m:5000/ns/tiny:latest"),
    ],
)
def test_mirrored_names(name: str, registry: str, mirrored: str) -> None:
    assert str(Name.parse(name).mirrored(registry)) == mirrored


def test_progress_counts_all_blobs_that_are_missing() -> None:
    """The sizes are known before the first byte, so the percentage never goes back."""
    times = iter([0.0, 2.0, 2.5])
    tally = Tally("tiny:latest", {"sha256:a": 3 * 2**30, "sha256:b": 2**30}, lambda: next(times))
    assert str(tally.add({"status": "pulling manifest"})).startswith("tiny:latest: 0 % of 4.00 GiB")
    line = {"status": "pulling a", "digest": "sha256:a", "total": 3 * 2**30, "completed": 2 * 2**30}
    assert str(tally.add(line)) == "tiny:latest: 50 % of 4.00 GiB (1024 MiB/s), pulling a"
    done = tally.add({"status": "pulling b", "digest": "sha256:b", "total": 2**30})
    assert (done.completed, done.total) == (2 * 2**30, 4 * 2**30)
