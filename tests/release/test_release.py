# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a published collection is checked by, done on the tarball of this tree (`make release-check`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from offline import without_network

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
# The newest ansible-core that this Python runs is that of the development environment.
ENVIRONMENTS = {"oldest": CACHE / "oldest", "newest": ROOT / ".venv"}
PUBLISHED = (
    "changelogs/",
    "docs/",
    "inventories/example/",
    "meta/",
    "playbooks/",
    "plugins/",
    "roles/",
    "tests/config.yml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "requirements.txt",
)
MAX_KIB = 400
# The first run makes ansible-test's environments.
SECONDS = 1500
pytestmark = pytest.mark.timeout(SECONDS)

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
only_long = pytest.mark.skipif(not LONG, reason="finds what the newest finds: part of make release-check")


def run(
    command: t.Sequence[str | Path], *, cwd: Path, home: Path, **variables: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a program with the variables of nobody: no settings of this tree, nor of its user."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={
            "PATH": os.pathsep.join([str(Path(command[0]).parent), *_folders()]),
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            **{name: str(value) for name, value in variables.items()},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _folders() -> t.Iterator[str]:
    """PATH, with the Pythons of pyenv for its shims: these stand also for Pythons that are not switched on."""
    for folder in os.get_exec_path():
        if Path(folder).name == "shims":
            yield from (str(each) for each in Path(folder).parent.glob("versions/*/bin"))
        else:
            yield folder


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the working tree with all that lies around in it."""
    folder = tmp_path_factory.mktemp("tarball")
    program = ENVIRONMENTS["newest"] / "bin" / "ansible-galaxy"
    done = run([program, "collection", "build", "--output-path", folder], cwd=ROOT, home=folder)
    assert done.returncode == 0, done.stdout
    (built,) = folder.glob("aivailable-sdai-*.tar.gz")
    return built


@pytest.fixture(scope="session")
def collections(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collections path that holds nothing but what the tarball installs."""
    folder = tmp_path_factory.mktemp("collections")
    program = ENVIRONMENTS["oldest"] / "bin" / "ansible-galaxy"
    done = run([program, "collection", "install", "--offline", "-p", folder, tarball], cwd=folder, home=folder)
    assert done.returncode == 0, done.stdout
    return folder


def test_it_holds_what_is_published_and_nothing_else(tarball: Path) -> None:
    """No environment, no cache, no private inventory, no test, and nothing else that git ignores."""
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    wanted = {name for name in known if name.startswith(PUBLISHED) and (ROOT / name).exists()}
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
    folders = {member.name for member in members if member.isdir()}
    assert {member.name for member in members} - folders == wanted | {"MANIFEST.json", "FILES.json"}
    assert folders == {str(parent) for name in wanted for parent in Path(name).parents if str(parent) != "."}
    assert tarball.stat().st_size < MAX_KIB * 1024


def _bring_pip(environment: Path, home: Path) -> None:
    """Put our get_pip.py where ansible-test keeps the one that it would download."""
    (source,) = environment.glob("lib/python3*/site-packages/ansible_test/_internal/python_requirements.py")
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"\bpip='([\d.]+)'", source.read_text()):
        shutil.copy(Path(__file__).with_name("get_pip.py"), cache / f"get_pip_{version.replace('.', '_')}.py")


@pytest.mark.parametrize("core", [pytest.param("oldest", marks=only_long), "newest"])
def test_ansible_test_sanity(core: str, collections: Path) -> None:
    """All sanity tests that can run here pass, without one line of exceptions.

    All but the slowest, whose rules ruff knows mostly: pylint is left to make test-long.
    """
    environment = ENVIRONMENTS[core]
    home = CACHE / "ansible-test"
    _bring_pip(environment, home)
    done = run(
        [environment / "bin" / "ansible-test", "sanity", "--color", "no", *([] if LONG else ["--skip-test", "pylint"])],
        cwd=collections / "ansible_collections" / "aivailable" / "sdai",
        home=home,
    )
    assert done.returncode == 0, done.stdout


def test_galaxy_importer(tarball: Path, tmp_path: Path) -> None:
    """Galaxy would take the tarball, and has nothing to remark."""
    done = run(
        [CACHE / "importer" / "bin" / "python", "-m", "galaxy_importer.main", tarball],
        cwd=tmp_path,
        home=tmp_path,
        # `make lint` runs the same one, with more rules.
        GALAXY_IMPORTER_RUN_ANSIBLE_LINT="false",
    )
    assert done.returncode == 0, done.stdout
    assert not re.search("WARNING|ERROR", done.stdout), done.stdout


def test_plan_in_an_empty_environment(collections: Path, tmp_path: Path) -> None:
    """What the README asks for on a control node is enough, without any network."""
    example = collections / "ansible_collections" / "aivailable" / "sdai" / "inventories" / "example"
    program = ENVIRONMENTS["oldest"] / "bin" / "ansible-playbook"
    done = run(
        [*without_network(), program, "aivailable.sdai.plan", "-i", example, "-e", f"sdai_plan_dir={tmp_path}"],
        cwd=tmp_path,
        home=tmp_path,
        ANSIBLE_COLLECTIONS_PATH=collections,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["replicas"]
