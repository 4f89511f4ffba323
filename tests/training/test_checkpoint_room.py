"""What a disk holds: how many checkpoints stay, what is refused, and a disk that fills up."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch
import training_runs
from large_models import COUNT, GIB, seven
from safetensors import SafetensorError

from cream.training import checkpoint_room, run

# GiB free, and how many checkpoints of 14 bytes a parameter stay besides the one being written.
ROOM = {400: 2, 270: 2, 200: 1, 180: 1, 110: 0, 101: 0}


@pytest.mark.parametrize("free", ROOM)
def test_old_checkpoints_make_room(tmp_path, monkeypatch, free, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * GIB))
    config = seven(save_steps=5)
    assert checkpoint_room.check_disk(config, COUNT, tmp_path / "runs" / "x") == ROOM[free]
    assert ("is removed before the next" in caplog.text) == (ROOM[free] == 0)


def test_a_disk_too_small_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=90 * GIB))
    with pytest.raises(OSError, match="a checkpoint takes 87.9 GiB, the model 12.6 GiB, .* 90.0"):
        checkpoint_room.check_disk(seven(save_steps=5), COUNT, tmp_path)
    assert checkpoint_room.check_disk(seven(save_steps=0), COUNT, tmp_path) == 2
    old = tmp_path / "checkpoints" / "checkpoint-5"
    old.mkdir(parents=True)
    with (old / "big").open("wb") as file:
        file.truncate(20 * GIB)  # sparse: what is there makes room, too
    assert checkpoint_room.check_disk(seven(save_steps=5), COUNT, tmp_path) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GIB))
    with pytest.raises(OSError, match="the model takes 12.6 GiB"):
        checkpoint_room.check_disk(seven(save_steps=0), COUNT, tmp_path / "other")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(OSError, match=r"the model takes 3.8 MiB and .* has 1.0 MiB free"):
        checkpoint_room.check_disk(training_runs.config(), 10**6, tmp_path / "other")


def test_where_the_disk_holds_one_checkpoint_the_last_goes_first(
    training_place, tmp_path, monkeypatch
):
    """Through `train`: never two on the disk, one at the end."""
    seen = []
    save = run.CreamTrainer._save_rng_state

    def watched(self, folder):
        seen.append(len(list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))))
        return save(self, folder)

    monkeypatch.setattr(run.CreamTrainer, "_save_rng_state", watched)
    monkeypatch.setattr(checkpoint_room, "check_disk", lambda *_: 0)
    training_runs.train(training_place, tmp_path / "run", steps=3, save_steps=1)
    assert seen == [1, 1, 1]
    left = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert left == ["checkpoint-3"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 82240 vs 82128"),
    ],
    ids=["full", "quota", "safetensors", "torch"],
)
def test_a_disk_that_fills_up_is_said_and_leaves_no_torn_checkpoint(
    training_place, tmp_path, monkeypatch, error
):
    """As each library says it; the same run then goes on, and ends as one that met no full disk."""
    settings = {"steps": 4, "save_steps": 1}
    calls, write = iter(range(100)), torch.save

    def torn(value: object, file: str, **more: object) -> None:
        if next(calls) == 5:  # of the second checkpoint
            raise error
        write(value, file, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(OSError, match="free space there, then the same run goes on from check"):
            training_runs.train(training_place, tmp_path / "run", **settings)
    (left,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert left.name == "checkpoint-1"
    for name in ("run", "whole"):
        training_runs.train(training_place, tmp_path / name, **settings)
    assert training_runs.weights(tmp_path / "run") == training_runs.weights(tmp_path / "whole")
    assert training_runs.losses(tmp_path / "run") == training_runs.losses(tmp_path / "whole")


def test_other_errors_of_a_run_pass_as_they_are(tmp_path):
    for error in (RuntimeError("CUDA error"), PermissionError(errno.EACCES, "denied")):
        with pytest.raises(type(error)) as found, checkpoint_room.writing(tmp_path):
            raise error
        assert found.value is error
