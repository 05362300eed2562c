# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make what mirror.py serves: release archives of the stand-in, and a registry with models of true headers and no data.

Idempotent: what is there and made from the same sources is left alone. Layout below --cache:
ollama/v<version>/{ollama-linux-<arch>.tar.zst, …-rocm.tar.zst, sha256sum.txt}, registry/{manifests,blobs}.
Needs the package gguf (for new models) and the command zstd.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import footprints

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
STANDIN = HERE / "standin"
MAKER = HERE.parent / "make_sparse_gguf.py"
MODELS = HERE.parent / "gguf_models.py"
ARCHITECTURES = ("amd64", "arm64")
DEFAULT_MODELS = ("llama3.2:1b", "llama3.2:3b", "llama3.1:8b", "gemma3:4b", "qwen3:8b")
# the library's tags and the names of the same models in the measurements
REFERENCES = {
    "llama3.2:1b": "llama3.2-1b", "llama3.2:3b": "llama3.2-3b", "llama3.1:8b": "llama3.1-8b",
    "llama3.3:70b": "llama3.3-70b", "mistral:7b": "mistral-7b", "qwen2.5:7b": "qwen2.5-7b",
    "qwen2.5:14b": "qwen2.5-14b", "qwen3:8b": "qwen3-8b", "qwen3:30b": "qwen3-30b-a3b", "gemma2:9b": "gemma2-9b",
    "gemma3:4b": "gemma3-4b", "gemma3:27b": "gemma3-27b", "phi3:mini": "phi3-mini", "phi3:3.8b": "phi3-mini",
    "phi4:14b": "phi4-14b", "gpt-oss:20b": "gpt-oss-20b",
}  # fmt: skip
_TEMPLATE = (
    "{{- if .System }}<|system|>{{ .System }}\n{{ end }}{{- if .Tools }}<|tools|>{{ .Tools }}\n{{ end }}"
    "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ .ToolCalls }}\n{{ end }}<|assistant|>"
)
_LICENSE = "A header without weights, made for the tests of aivailable.sdai; to be used as they are.\n"
_MEDIA = "application/vnd.ollama.image."


def version_of_role() -> str:
    """The version that the role installs by default."""
    text = (ROOT / "roles/ollama/defaults/main.yml").read_text()
    found = re.search(r"^ollama_version:\s*[\"']?([\w.-]+)", text, re.MULTILINE)
    if found is None:
        raise SystemExit("roles/ollama/defaults/main.yml names no ollama_version: give --version")
    return found[1]


def release_files(version: str) -> dict[str, tuple[bytes, int]]:
    """Content and mode of each file of the release by its path in the archives."""
    files: dict[str, tuple[bytes, int]] = {}
    for path in sorted(STANDIN.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[str(path.relative_to(STANDIN))] = (path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    files["lib/ollama/VERSION"] = (version.encode() + b"\n", 0o644)
    needs = json.dumps(footprints.table(ROOT / "tests/data"), separators=(",", ":")).encode()
    files["lib/ollama/ollama_standin/needs.json"] = (needs, 0o644)
    return files


def archive(path: Path, files: dict[str, tuple[bytes, int]]) -> None:
    """The same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
        for name in folders:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    packed = subprocess.run(["zstd", "-q", "-6", "-c"], input=buffer.getvalue(), stdout=subprocess.PIPE, check=True)
    replace(path, packed.stdout)


def replace(path: Path, content: bytes) -> None:
    """Write a file at once, and only if it would be another."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(content)
    scratch.replace(path)


def build_release(cache: Path, version: str) -> Path:
    """The archives as upstream cuts them: ROCm's libraries come in one of their own."""
    folder = cache / "ollama" / f"v{version}"
    files = release_files(version)
    rocm = {name: file for name, file in files.items() if name.startswith("lib/ollama/rocm")}
    rest = {name: file for name, file in files.items() if name not in rocm}
    sources = repr(sorted((name, hashlib.sha256(content).hexdigest(), mode) for name, (content, mode) in files.items()))
    stamp, mark = folder / ".sources", hashlib.sha256(sources.encode()).hexdigest() + "\n"
    if stamp.exists() and stamp.read_text() == mark:
        return folder
    archive(folder / "ollama-linux-amd64.tar.zst", rest)
    archive(folder / "ollama-linux-amd64-rocm.tar.zst", rocm)
    replace(folder / "ollama-linux-arm64.tar.zst", (folder / "ollama-linux-amd64.tar.zst").read_bytes())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  ./{p.name}\n" for p in sorted(folder.glob("*.tar.zst"))]
    replace(folder / "sha256sum.txt", "".join(sums).encode())
    replace(stamp, mark.encode())
    return folder


class Models:
    """The registry's content. index.json remembers the digest of each sparse file by its header and size."""

    def __init__(self, cache: Path) -> None:
        self.blobs = cache / "registry" / "blobs"
        self.manifests = cache / "registry" / "manifests" / "library"
        self.index_path = cache / "registry" / "index.json"
        self.index: dict[str, dict[str, t.Any]] = {}
        if self.index_path.exists():
            self.index = json.loads(self.index_path.read_text())

    def build(self, tags: list[str]) -> None:
        self.blobs.mkdir(parents=True, exist_ok=True)
        maker = hashlib.sha256(MAKER.read_bytes() + MODELS.read_bytes()).hexdigest()
        stale = [tag for tag in tags if not self._fresh(tag, maker)]
        with ThreadPoolExecutor(2) as pool:
            for tag, entry in zip(stale, pool.map(self._weights, stale), strict=True):
                self.index[tag] = {**entry, "maker": maker}
        for tag in tags:
            self._manifest(tag, self.index[tag])
        replace(self.index_path, (json.dumps(self.index, indent=1, sort_keys=True) + "\n").encode())

    def _fresh(self, tag: str, maker: str) -> bool:
        entry = self.index.get(tag, {})
        return entry.get("maker") == maker and (self.blobs / f"sha256-{entry['digest']}").exists()

    def _weights(self, tag: str) -> dict[str, t.Any]:
        """Make the sparse file; hash it only when no file with this header and size was hashed before."""
        reference = REFERENCES[tag]
        with tempfile.TemporaryDirectory(dir=self.blobs) as scratch:
            subprocess.run([sys.executable, MAKER, scratch, reference], check=True, stdout=subprocess.DEVNULL)
            path = Path(scratch, f"{reference}.gguf")
            facts = footprints.header(path)
            known = self.index.get(tag, {})
            if (known.get("header"), known.get("size")) == (facts["header"], facts["size"]):
                digest = known["digest"]
            else:
                digest = footprints.sparse.sha256(path)
            path.chmod(0o644)
            path.replace(self.blobs / f"sha256-{digest}")
        return {**facts, "digest": digest}

    def _blob(self, media: str, content: bytes) -> dict[str, t.Any]:
        digest = hashlib.sha256(content).hexdigest()
        replace(self.blobs / f"sha256-{digest}", content)
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

    def _manifest(self, tag: str, entry: dict[str, t.Any]) -> None:
        weights = {"mediaType": _MEDIA + "model", "digest": f"sha256:{entry['digest']}", "size": entry["size"]}
        layers = [
            weights,
            self._blob(_MEDIA + "template", _TEMPLATE.encode()),
            self._blob(_MEDIA + "license", _LICENSE.encode()),
            self._blob(_MEDIA + "params", b'{"stop":["<|system|>","<|user|>","<|assistant|>"]}'),
        ]
        config = {
            "model_format": "gguf", "model_family": entry["family"], "model_families": [entry["family"]],
            "model_type": entry["parameter_size"], "file_type": entry["quantization"], "architecture": "amd64",
            "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }  # fmt: skip
        text = json.dumps(config, separators=(",", ":")).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._blob("application/vnd.docker.container.image.v1+json", text),
            "layers": layers,
        }
        model, _, name = tag.partition(":")
        replace(self.manifests / model / name, json.dumps(manifest, separators=(",", ":")).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(DEFAULT_MODELS), metavar="TAG", choices=sorted(REFERENCES))
    parser.add_argument("--version", default="", help="default: what the role installs")
    options = parser.parse_args()
    folder = build_release(options.cache, options.version or version_of_role())
    Models(options.cache).build(options.models)
    print(f"{folder} and {len(options.models)} models are ready.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
