"""Names are claimed by one, and what is dead makes room."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.local.claims import changing, claimed, remove, write_spec
from mlflow_llm_plugins.deployments.local.records import Spec, read_record
from mlflow_llm_plugins.deployments.local.specs import first_spec
from mlflow_llm_plugins.errors import DeploymentBusyError, ResourceExistsError, ResourceNotFoundError


def claim(home, folder, spec):
    with claimed(home, folder, spec):
        pass


def test_a_claimed_name_is_taken(home):
    folder = home.folder("chat")
    refused = pytest.raises(
        ResourceExistsError,
        match=r"'chat' exists already and is starting\. Update or delete it, or take another name\.",
    )
    with claimed(home, folder, first_spec("chat", {})), refused:
        claim(home, folder, first_spec("chat", {}))


def test_a_claim_ends_with_its_command(home):
    claim(home, home.folder("chat"), first_spec("chat", {}))
    claim(home, home.folder("chat"), first_spec("chat", {"port": 5}))
    assert read_record(Spec, home.folder("chat").spec).config == {"port": 5}


def test_a_claim_that_cannot_be_written_leaves_nothing(home, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        claim(home, home.folder("chat"), first_spec("chat", {}))
    assert list(home.deployments.iterdir()) == []


def test_a_supervised_deployment_keeps_its_name(home, recorded, holder):
    folder = recorded(status={"state": "ready"})
    holder(folder.life_lock)
    with pytest.raises(ResourceExistsError, match="exists already and is ready"):
        claim(home, folder, first_spec("chat", {}))


def test_a_deployment_that_is_being_changed_keeps_its_name(home, recorded, holder):
    folder = recorded(status={"state": "stopped"})
    holder(folder.command_lock)
    with pytest.raises(ResourceExistsError, match="exists already and is stopped"):
        claim(home, folder, first_spec("chat", {}))


@pytest.mark.parametrize("state", ["ready", "failed", "stopped"])
def test_a_dead_deployment_makes_room_and_leaves_nothing(home, recorded, state):
    folder = recorded(status={"state": state})
    folder.log.write_text("old")
    folder.new_download().mkdir()
    claim(home, folder, first_spec("chat", {"port": 5005}))
    assert read_record(Spec, folder.spec).config == {"port": 5005}
    assert sorted(path.name for path in folder.path.iterdir()) == ["command.lock", "spec.json"]


def _try(home, barrier, results):
    barrier.wait(30)
    try:
        with claimed(home, home.folder("chat"), first_spec("chat", {})):
            results.put("won")
            barrier.wait(30)  # until all have tried
    except ResourceExistsError:
        results.put("lost")
        barrier.wait(30)


def test_of_many_who_claim_a_name_at_once_one_wins(home):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_try, args=(home, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert outcomes == ["lost", "lost", "lost", "won"]


def test_a_second_command_does_not_change_what_another_one_is_changing(recorded):
    folder = recorded()
    refused = pytest.raises(DeploymentBusyError, match="Another command is changing deployment 'chat'")
    with changing(folder), refused, changing(folder):
        pass


def test_a_change_does_not_bring_back_what_was_deleted(home):
    folder = home.folder("chat")
    with pytest.raises(ResourceNotFoundError, match="'chat' was deleted meanwhile"), changing(folder):
        pass
    folder.path.mkdir()  # as a lock makes it
    with pytest.raises(ResourceNotFoundError, match="'chat' was deleted meanwhile"), changing(folder):
        pass
    assert not folder.path.exists()


def test_a_removed_deployment_is_gone_with_its_folder(home, recorded):
    folder = recorded(status={"state": "stopped"})
    remove(home, folder)
    assert list(home.deployments.iterdir()) == []
    remove(home, folder)  # again


def test_a_deployment_that_was_created_again_is_not_removed_by_the_first_creator(home, recorded):
    folder = recorded()
    remove(home, folder, created=1.0)
    assert folder.path.is_dir()


def test_a_command_notices_that_its_deployment_was_deleted(home):
    spec = first_spec("chat", {})
    with pytest.raises(ResourceNotFoundError, match="was deleted meanwhile"):
        write_spec(home.folder("chat"), spec)
    claim(home, home.folder("chat"), first_spec("chat", {}))
    with pytest.raises(ResourceNotFoundError, match="was deleted meanwhile"):
        write_spec(home.folder("chat"), spec)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")], ids=["gone", "damaged"])
def test_a_command_mends_a_spec_that_is_gone_or_damaged(recorded, damage):
    folder = recorded(status={"state": "ready"})
    spec = read_record(Spec, folder.spec)
    damage(folder.spec)
    write_spec(folder, spec)
    assert read_record(Spec, folder.spec) == spec
