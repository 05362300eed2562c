# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import os
import stat
import typing as t
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.aivailable.sdai.plugins.action import placement
from ansible_collections.aivailable.sdai.plugins.modules import placement as documentation

FOOTPRINT = {"layers": 32, "weights_mib": 4403, "kv_mib": 2176, "compute_mib": 248}


def card(identifier: str, index: int = 0, vram: int = 11264, foreign: int = 0) -> dict[str, t.Any]:
    return {
        "id": identifier,
        "index": index,
        "vendor": "nvidia",
        "name": "NVIDIA GeForce GTX 1080 Ti",
        "architecture": "sm_61",
        "vram_mib": vram,
        "vram_foreign_mib": foreign,
        "bandwidth_gbs": 484,
        "backends": ["cuda_v12"],
    }


def model(name: str = "mine:8b", **changes: object) -> dict[str, t.Any]:
    return {"name": name, "context": 4096, "replicas": {"min": 1, "max": 1}, "footprint": FOOTPRINT, **changes}


FLEET = {"gpu1": {"gpus": [card("A")]}, "gpu2": {"gpus": [card("B")]}}


def run(*, check: bool = False, diff: bool = False, **arguments: object) -> dict[str, t.Any]:
    task = MagicMock(async_val=0, check_mode=check, diff=diff)
    task.args = {"fleet": FLEET, "models": [model()], "catalog": {}, **arguments}
    action = placement.ActionModule(
        task=task, connection=MagicMock(), play_context=MagicMock(), loader=None, templar=None, shared_loader_obj=None
    )
    return action.run(task_vars={})


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "plans" / "plan.json"


def test_plan_transition_and_report() -> None:
    result = run()
    (replica,) = result["plan"]["replicas"]
    assert result["plan"]["status"] == "optimal"
    assert replica["unit"] == "sdai-ollama@mine-8b--1.service"
    assert result["transition"]["start"] == ["mine-8b--1"]
    assert "mine:8b" in result["report"]
    assert result["changed"] is False
    json.dumps(result)


def test_same_input_same_plan() -> None:
    one, two = run(), run(fleet=dict(reversed(FLEET.items())))
    assert json.dumps(one["plan"]) == json.dumps(two["plan"])


def test_what_runs_is_kept() -> None:
    running = [{**replica, "state": "active", "resident": True, "pids": [7]} for replica in run()["plan"]["replicas"]]
    result = run(current=running)
    assert result["transition"]["keep"] == ["mine-8b--1"]
    assert result["transition"]["start"] == []


def test_the_file_is_written_once(dest: Path) -> None:
    first = run(dest=str(dest))
    assert first["changed"]
    assert first["dest"] == str(dest)
    assert json.loads(dest.read_text()) == first["plan"]
    assert stat.S_IMODE(dest.stat().st_mode) == 0o644
    page = dest.with_suffix(".html")
    assert first["page"] == str(page)
    assert sorted(os.listdir(dest.parent)) == ["plan.html", "plan.json"]
    before = [(file.stat().st_mtime_ns, file.stat().st_ino) for file in (dest, page)]
    # Only what others hold has changed, by 300 MiB and differently: what runs stays where it is.
    fleet = {"gpu1": {"gpus": [card("A", foreign=300)]}, "gpu2": {"gpus": [card("B", foreign=64)]}}
    second = run(dest=str(dest), fleet=fleet, current=first["plan"]["replicas"])
    assert not second["changed"]
    assert [(file.stat().st_mtime_ns, file.stat().st_ino) for file in (dest, page)] == before


def test_another_placement_replaces_the_file(dest: Path) -> None:
    run(dest=str(dest))
    result = run(dest=str(dest), models=[model(context=8192)], diff=True)
    assert result["changed"]
    assert json.loads(dest.read_text())["replicas"][0]["context"] == 8192
    plan, page = result["diff"]
    assert json.loads(plan["before"])["replicas"][0]["context"] == 4096
    assert json.loads(plan["after"]) == result["plan"]
    assert page["after_header"] == str(dest.with_suffix(".html"))
    assert page["before"] != page["after"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"models": [model(priority=7)]}, id="catalog"),
        pytest.param({"fleet": {**FLEET, "gpu3": {"gpus": [card("C", vram=4096)]}}}, id="fleet"),
    ],
)
def test_a_plan_for_another_fleet_or_catalog_replaces_the_file(dest: Path, change: dict[str, t.Any]) -> None:
    """Though it places the same: the file would be refused when it is to be executed."""
    first = run(dest=str(dest))
    second = run(dest=str(dest), **change)
    assert second["changed"]
    assert second["plan"]["replicas"] == first["plan"]["replicas"]
    assert run(plan_file=str(dest), **change)["plan"] == second["plan"]


def test_check_mode_tells_and_writes_nothing(dest: Path) -> None:
    result = run(dest=str(dest), check=True, diff=True)
    assert result["changed"]
    assert [diff["before"] for diff in result["diff"]] == ["", ""]
    assert not dest.parent.exists()


@pytest.mark.parametrize("content", [None, "<html>of yesterday</html>", '<meta name="sdai-plan" content="00">'])
def test_a_page_that_is_missing_or_another_is_drawn_anew(dest: Path, content: str | None) -> None:
    """The plan itself stays as it is; in check mode so does the page."""
    run(dest=str(dest))
    page = dest.with_suffix(".html")
    right, before = page.read_text(), dest.stat()
    page.unlink()
    if content is not None:
        page.write_text(content)
    told = run(dest=str(dest), check=True, diff=True)
    assert told["changed"]
    assert [diff["after_header"] for diff in told["diff"]] == [str(page)]
    assert (page.read_text() if page.exists() else None) == content
    assert run(dest=str(dest))["changed"]
    assert page.read_text() == right
    assert (dest.stat().st_mtime_ns, dest.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not run(dest=str(dest))["changed"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"replicas": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_replaced(dest: Path, content: bytes) -> None:
    dest.parent.mkdir()
    dest.write_bytes(content)
    assert run(dest=str(dest))["changed"]
    assert json.loads(dest.read_text())["schema"] == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnsibleActionFail, match=r"Cannot write the plan to \S+plan\.json: .* with sdai_plan_dir"):
        run(dest=str(tmp_path / "file" / "plan.json"))


def test_relative_paths_are_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(dest="here/plan.json")["dest"] == str(tmp_path / "here" / "plan.json")


TOO_LARGE = model("huge:1", footprint={**FOOTPRINT, "weights_mib": 90_000})


def test_infeasible_is_a_result() -> None:
    result = run(models=[model(), TOO_LARGE])
    assert result["plan"]["status"] == "infeasible"
    assert [replica["model"] for replica in result["plan"]["replicas"]] == ["mine:8b"]
    (missing,) = result["plan"]["unplaced"]
    assert missing["model"] == "huge:1"
    assert missing["reason"]
    assert missing["remedy"]


@pytest.mark.parametrize("wanted", ["feasible", "optimal"])
def test_unless_more_is_required(dest: Path, wanted: str) -> None:
    run(require=wanted)
    with pytest.raises(AnsibleActionFail, match=rf"infeasible, and sdai_require={wanted} .*huge:1"):
        run(models=[TOO_LARGE], require=wanted, dest=str(dest))
    assert not dest.exists()


def test_one_message_for_all_that_is_wrong() -> None:
    with pytest.raises(
        AnsibleActionFail, match=r"sdai_models\[0\]\.context \(model mine:8b\): \"x\" is not a whole number"
    ):
        run(models=[model(context="x")])


def test_a_running_replica_without_its_keys() -> None:
    with pytest.raises(AnsibleActionFail, match=r"current\[0\]"):
        run(current=[{"id": "a"}])


def test_without_ortools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SOLVER_ERROR", "No module named 'ortools'")
    with pytest.raises(AnsibleActionFail, match=r"ortools[\s\S]*control node only: \S+ -m pip install ortools"):
        run()


# --- what if ---------------------------------------------------------------------------------

TWO = [model("mine:8b", replicas={"min": 1, "max": 2}), model("other:8b", priority=7)]


def test_without_a_node(dest: Path) -> None:
    """The answer is a difference to today's plan, and nothing is written."""
    today = run(models=TWO)["plan"]
    result = run(models=TWO, what_if={"without_nodes": ["gpu2"]}, dest=str(dest))
    assert not result["changed"]
    assert not dest.parent.exists()
    assert {replica["node"] for replica in result["plan"]["replicas"]} == {"gpu1"}
    assert len(today["replicas"]) == 2
    report = result["report"]
    assert report.startswith("WHAT IF  without gpu2\n")
    assert "minimum replicas without a place: 0 today, 1 then" in report
    assert "other:8b: 1 replica more missing (priority 7): a replica needs 7.2 GiB" in report


def test_with_a_card_and_a_model_twice() -> None:
    question = {"with_gpus": {"gpu1": ["GTX 1080 Ti"]}, "replicas": {"mine:8b": 2}}
    result = run(models=TWO, what_if=question)
    report = result["report"]
    assert report.startswith("WHAT IF  with GTX 1080 Ti in gpu1; with mine:8b 2 times\n")
    assert "1 replica gained, 0 lost, 1 moved; 14.3 GiB to load" in report
    assert "+ mine-8b--2 on gpu2 GPU 0, 7.2 GiB" in report
    assert "→ other-8b--1 on gpu2 GPU 0 moves to gpu1 GPU 1 as other-8b--2, 7.2 GiB" in report
    assert result["transition"]["keep"] == ["mine-8b--1"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"without_node": ["gpu2"]}, r"sdai_what_if\.without_node .*Did you mean without_nodes\?"),
        ({"without_nodes": ["gpu7"]}, r'sdai_what_if\.without_nodes\[0\] .*"gpu7" is not a node'),
        ("{", r'sdai_what_if \(all hosts\): is the text "\{", not a mapping'),
    ],
)
def test_a_wrong_question_is_one_error(question: object, message: str) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        run(what_if=question)


def test_no_question_about_a_reviewed_plan(dest: Path) -> None:
    run(dest=str(dest))
    with pytest.raises(AnsibleActionFail, match=r"sdai_what_if .* sdai_plan_file names one that is"):
        run(what_if={"without_nodes": ["gpu2"]}, plan_file=str(dest))


def test_a_remedy_is_what_a_solve_has_shown() -> None:
    """It is in the plan, and what it says does help."""
    (item,) = run(models=TWO, fleet={"gpu1": {"gpus": [card("A")]}})["plan"]["unplaced"]
    assert "a solve has shown that each of these does: lower replicas.min of mine:8b to 0 (now 1)" in item["remedy"]
    assert "add one NVIDIA GeForce GTX 1080 Ti (11 GiB) to gpu1" in item["remedy"]
    assert run(models=TWO, fleet={"gpu1": {"gpus": [card("A"), card("B", 1)]}})["plan"]["unplaced"] == []


# --- a plan that was reviewed ------------------------------------------------------------------


@pytest.fixture
def reviewed(dest: Path) -> Path:
    run(dest=str(dest))
    return dest


def test_a_reviewed_plan_is_taken_as_it_is(reviewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the solver is not installed, and where planning anew would choose otherwise."""
    monkeypatch.setattr(placement, "SOLVER_ERROR", "No module named 'ortools'")
    document = json.loads(reviewed.read_text())
    (replica,) = document["replicas"]
    elsewhere = {"gpu1": ("gpu2", "B"), "gpu2": ("gpu1", "A")}[replica["node"]]
    replica["node"], replica["gpus"][0]["id"] = elsewhere
    reviewed.write_text(json.dumps(document))
    result = run(plan_file=str(reviewed), dest=str(reviewed))
    assert result["plan"]["replicas"][0]["node"] == elsewhere[0]
    assert result["transition"]["start"] == ["mine-8b--1"]
    assert json.loads(reviewed.read_text()) == document


def alter(cards: dict[str, dict[str, t.Any]]) -> dict[str, t.Any]:
    fleet = {name: {"gpus": [dict(gpu) for gpu in host["gpus"]]} for name, host in FLEET.items()}
    for host in fleet.values():
        for gpu in host["gpus"]:
            gpu.update(cards.get("*", {}))
    return fleet


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        pytest.param(
            {"models": [model(context=8192)]}, "context was planned as 4096 and is wanted as 8192", id="setting"
        ),
        pytest.param({"models": [model("new:1")]}, "mine:8b is no longer in sdai_models", id="model gone"),
        pytest.param(
            {"models": [model(), model("new:1")]},
            "new:1 is in sdai_models, but the plan neither places it nor lists it",
            id="model new",
        ),
        pytest.param({"fleet": {"gpu3": {"gpus": [card("C")]}}}, "GPU gpu1/A is gone", id="node gone"),
        pytest.param(
            {"fleet": {"gpu3": {"gpus": [card("C"), card("A", 1)]}}},
            "GPU gpu1/A is in gpu3 now, as its number 1",
            id="card moved",
        ),
        pytest.param(
            {"fleet": alter({"*": {"usable": False, "reason": "broken"}})}, "not usable: broken", id="card broken"
        ),
        pytest.param(
            {"fleet": alter({"*": {"backends": ["vulkan"]}})}, "no longer has the runner cuda_v12", id="runner"
        ),
        pytest.param({"fleet": alter({"*": {"index": 3}})}, "was number 0 of its node and is number 3", id="index"),
        pytest.param(
            {"fleet": alter({"*": {"vram_foreign_mib": 6400}})}, "7327 MiB are planned, 3840 MiB are left", id="no room"
        ),
        pytest.param(
            {"fleet": {**FLEET, "gpu3": {"gpus": [card("C")]}}}, "the fleet is not the one that was planned", id="fleet"
        ),
        pytest.param(
            {"models": [model(priority=7)]},
            "the catalog is not the one that was planned: sdai_models of the inventory has changed since",
            id="catalog",
        ),
    ],
)
def test_a_reviewed_plan_that_no_longer_holds(reviewed: Path, arguments: dict[str, t.Any], difference: str) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        run(plan_file=str(reviewed), **arguments)
    assert "make and review a new one" in str(caught.value)
    assert difference in str(caught.value)


def test_what_runs_may_use_the_margin(reviewed: Path) -> None:
    document = json.loads(reviewed.read_text())
    fleet = alter({"*": {"vram_foreign_mib": 3840}})
    with pytest.raises(AnsibleActionFail, match="7327 MiB are planned, 6400 MiB are left"):
        run(plan_file=str(reviewed), fleet=fleet)
    assert run(plan_file=str(reviewed), fleet=fleet, current=document["replicas"])["transition"]["start"] == []


@pytest.mark.parametrize(
    "change",
    [{"state": "failed"}, {"port": 11501}, {"source": "another:8b"}, {"batch": 4096}, {"runner": "vulkan"}],
    ids=lambda change: next(iter(change)),
)
def test_only_the_planned_replica_itself_may_use_the_margin(reviewed: Path, change: dict[str, t.Any]) -> None:
    """Something else under its name will be stopped, and its successor is a start."""
    (replica,) = json.loads(reviewed.read_text())["replicas"]
    with pytest.raises(AnsibleActionFail, match="7327 MiB are planned, 6400 MiB are left"):
        run(
            plan_file=str(reviewed),
            fleet=alter({"*": {"vram_foreign_mib": 3840}}),
            current=[{**replica, "source": "mine:8b", "state": "active", **change}],
        )


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({}, ["mine-8b--1 is the id of 2", "port 11500 of gpu1 is given to 2", "GPU gpu1/A is given to mine:8b 2"]),
        ({"id": "mine-8b--2"}, ["port 11500 of gpu1 is given to 2 replicas"]),
        ({"id": "mine-8b--2", "port": 11501}, ["GPU gpu1/A is given to mine:8b 2 times"]),
    ],
)
def test_an_edited_plan_gives_nothing_twice(reviewed: Path, change: dict[str, t.Any], differences: list[str]) -> None:
    document = json.loads(reviewed.read_text())
    (replica,) = document["replicas"]
    replica["node"], replica["gpus"][0]["id"] = "gpu1", "A"
    document["replicas"].append({**replica, **change})
    reviewed.write_text(json.dumps(document))
    with pytest.raises(AnsibleActionFail) as caught:
        run(plan_file=str(reviewed))
    assert all(text in str(caught.value) for text in differences)


def edited(path: Path, edit: t.Callable[[dict[str, t.Any]], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_an_edited_plan_does_not_make_a_replica_smaller(reviewed: Path) -> None:
    edited(reviewed, lambda document: document["replicas"][0]["gpus"][0].update(vram_mib=7326))
    with pytest.raises(AnsibleActionFail, match=r"mine-8b--1: 7326 MiB .* GPU gpu1/A, where it takes 7327 MiB"):
        run(plan_file=str(reviewed))
    what_runs = json.loads(reviewed.read_text())["replicas"]
    assert run(plan_file=str(reviewed), current=what_runs)["transition"]["keep"] == ["mine-8b--1"]


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (1, {"vram_mib": 1}, r"big-latest--1: 1 MiB are planned on GPU gpu1/B, where it takes \d+ MiB"),
        (0, {"layers": 15}, "big-latest--1 has 31 layers in the plan, its model has 32"),
    ],
)
def test_an_edited_split_still_holds_the_whole_model(
    dest: Path, place: int, change: dict[str, t.Any], message: str
) -> None:
    world = {
        "fleet": {"gpu1": {"gpus": [card("A"), card("B", 1)]}},
        "models": [model("big", footprint={**FOOTPRINT, "weights_mib": 12000})],
    }
    run(dest=str(dest), **world)
    run(plan_file=str(dest), **world)
    edited(dest, lambda document: document["replicas"][0]["gpus"][place].update(change))
    with pytest.raises(AnsibleActionFail, match=message):
        run(plan_file=str(dest), **world)


def test_a_wrong_plan_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, dest: Path) -> None:
    """Whatever the solver has done: nobody acts on it, and no file of it is left."""
    plan = placement.solve

    def too_small(*arguments: t.Any, **options: t.Any) -> t.Any:
        found = plan(*arguments, **options)
        (replica,) = found.replicas
        (share,) = replica.gpus
        small = dataclasses.replace(replica, gpus=(dataclasses.replace(share, vram_mib=7000),))
        return dataclasses.replace(found, replicas=(small,))

    monkeypatch.setattr(placement, "solve", too_small)
    with pytest.raises(
        AnsibleActionFail,
        match=r"plan that was made breaks [\s\S]* report it [\s\S]*\n- mine-8b--1: 7000 MiB are .* takes 7327 MiB",
    ):
        run(dest=str(dest))
    assert not dest.exists()


def test_a_wrong_transition_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, dest: Path) -> None:
    way = placement.transition_to
    monkeypatch.setattr(placement, "transition_to", lambda *arguments: dataclasses.replace(way(*arguments), waves=()))
    with pytest.raises(
        AnsibleActionFail, match=r"transition that was made [\s\S]*\n- mine-8b--1 starts in 0 waves instead of one"
    ):
        run(dest=str(dest))
    assert not dest.exists()


def test_an_edited_plan_says_what_it_misses(dest: Path) -> None:
    world = {"models": [model(replicas={"min": 2, "max": 2})]}
    run(dest=str(dest), **world)
    edited(dest, lambda document: document["replicas"].pop())
    with pytest.raises(AnsibleActionFail, match=r"mine:8b has 1 replicas in the plan and 0 listed .* minimum is 2"):
        run(plan_file=str(dest), **world)
    missing = {"model": "mine:8b", "priority": 50, "missing": 1, "reason": "we sold a card", "remedy": "buy one"}
    edited(dest, lambda document: document["unplaced"].append(missing))
    run(plan_file=str(dest), **world)


def test_the_report_says_where_the_plan_is(dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for check, words in ((True, "would be written to"), (False, "is written to"), (False, "is as before in")):
        run(check=check, dest=str(dest), show=True)
        output = capsys.readouterr().out
        assert f"The plan {words} {dest}\n" in output
        assert output.count(str(dest)) == 1
        assert (f"Its page {words} {dest.with_suffix('.html')}\n" in output) == ("as before" not in words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[]", r"plan\.json holds no plan"),
        ('{"schema": 2}', r"plan\.json holds no plan: plan\.schema: .* schema 1, not 2"),
    ],
)
def test_a_file_that_is_no_plan(dest: Path, content: str | None, message: str) -> None:
    dest.parent.mkdir()
    if content is not None:
        dest.write_text(content)
    with pytest.raises(AnsibleActionFail, match=message):
        run(plan_file=str(dest))


# --- documentation -----------------------------------------------------------------------------


def test_the_documentation_lists_the_arguments() -> None:
    options = yaml.safe_load(documentation.DOCUMENTATION)["options"]
    assert set(options) == set(placement.ARGUMENTS)
    for name, argument in placement.ARGUMENTS.items():
        for key in ("type", "elements", "choices", "default", "required"):
            assert options[name].get(key) == argument.get(key), f"{name}.{key}"
