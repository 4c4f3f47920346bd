"""Checkpoints: resumed to the same bytes after any interruption, whole or refused."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import ROWS, STEPS, noisy_error, same, squeeze, train, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vae_tutorial import Part
from vae_tutorial.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from vae_tutorial.schedules import LinearWarmUp, OneCycle

STOP = {"at": None, "calls": 0}


class Stop(Exception):
    pass


def tick(model):
    """For objectives: raises at the appointed training step."""
    STOP["calls"] += model.training
    if model.training and STOP["calls"] == STOP["at"]:
        raise Stop


def stopping(model, x, weight=1.0):
    tick(model)
    return noisy_error(model, x, weight=weight)


class Average(Part):
    """A hook with a state: the running mean of a weight, and how often it was called."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, model, step):
        assert step == int(self.calls)
        self.calls += 1
        self.mean.lerp_(model.down.weight, 0.1)


def tied():
    """A module that is no part, with one tensor under two names."""
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer)


def falling(progress):
    return 0.01 * (1 - progress)


KINDS = {
    "batch norm": lambda: {"model": squeeze(norm=True)},
    "tied": lambda: {"model": tied()},
    "hook": lambda: {"after_step": Average()},
    "loader": lambda: {"data": DataLoader(TensorDataset(ROWS), batch_size=10, shuffle=True)},
    "schedules": lambda: {"schedules": {"weight": LinearWarmUp()}, "learning_rate": OneCycle(0.01)},
    "function": lambda: {"learning_rate": falling, "weight_decay": 0.1},
}


def trained(kind, stop=None, **settings):
    """Weights, the hook's too, and the history without its times."""
    torch.manual_seed(4)
    STOP.update(at=stop, calls=0)
    settings = KINDS[kind]() | settings
    model, history = train(objective=stopping, **settings)
    assert history.seconds.dropna().is_monotonic_increasing
    hook = settings.get("after_step", nn.Identity())
    state = weights(model) | {f"hook.{k}": v for k, v in weights(hook).items()}
    return state, history.drop(columns="seconds")


def assert_alike(a, b):
    assert same(a[0], b[0])
    pd.testing.assert_frame_equal(a[1], b[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_to_the_same_bytes_wherever_it_was_interrupted(kind, tmp_path):
    unbroken = trained(kind)
    for stop in (3, STEPS + 1, STEPS + 3, 2 * STEPS, 3 * STEPS):
        path = tmp_path / str(stop) / "checkpoint.safetensors"
        with pytest.raises(Stop):
            trained(kind, stop, checkpoint=path)
        assert path.exists() is (stop > STEPS)
        assert_alike(trained(kind, checkpoint=path), unbroken)
    path = tmp_path / "checkpoint.safetensors"
    for _ in range(2):  # again and again
        with pytest.raises(Stop):
            trained(kind, STEPS + 1, checkpoint=path)
    assert_alike(trained(kind, STEPS + 1, checkpoint=path), unbroken)
    assert_alike(trained(kind, 1, checkpoint=path), unbroken)  # nothing is left to train


def killed_at_the_second_rename(path):
    """For a process of its own: a checkpoint is written, but not yet in its place."""
    rename = os.replace
    os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL) if path.exists() else rename(*a)
    trained("function", checkpoint=path)


def test_a_killed_process_is_gone_on_with_by_another(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    code = f"from test_checkpoint import *; killed_at_the_second_rename(Path({str(path)!r}))"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=False)
    assert child.returncode == -signal.SIGKILL
    (left,) = set(tmp_path.iterdir()) - {path}
    mine, pid = f".{path.name}.{os.getppid()}.tmp", left.suffixes[-2]
    others = [mine, f".{path.name}.notes.tmp", f".other{pid}.tmp", path.name + pid]
    for name in others:
        (tmp_path / name).touch()
    assert_alike(trained("function", checkpoint=path), trained("function"))
    # What the dead process left is swept away, and nothing else.
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, path.name])


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    STOP.update(at=None)
    train(objective=stopping, checkpoint=path)
    return path


OTHERS = [
    ("epochs", {"epochs": 4}), ("data", {"data": ROWS.flip(0)}), ("data", {"held_out": None}), ("seed", {"seed": 1}),
    ("batch_size", {"batch_size": 11}), ("learning_rate", {"learning_rate": falling}), ("bfloat16", {"bfloat16": True}),
    ("schedules", {"schedules": {"weight": LinearWarmUp()}}), ("prepare", {"prepare": torch.bernoulli}),
    ("clip_norm", {"clip_norm": None}), ("weight_decay", {"weight_decay": 0.1}), ("after_step", {"after_step": Average()}),
    ("objective", {"objective": noisy_error}), ("model.width", {"model": squeeze(4)}), ("model", {"model": tied()}),
    ("shapes.up.weight", {"model": squeeze(4)}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "changed"), OTHERS)
def test_a_checkpoint_of_another_run_is_refused(checkpoint, what, changed):
    content = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=rf"another run.*\b{what}\b") as caught:
        train(**({"objective": stopping} | changed), checkpoint=checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == content


def test_no_flipped_bit_and_no_missing_byte_goes_unnoticed(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    del header["__metadata__"]
    metadata = content.index(b"__metadata__")
    tensors = [[8 + size + end for end in entry["data_offsets"]] for entry in header.values()]
    draw, damaged = random.Random(0), [b"", *(content[:n] for n in (5, 300, -1)), content + b"0"]
    for start, end in [(0, 8), (8, 8 + size), (metadata, metadata + 100), *tensors]:
        for _ in range(30):
            flipped = bytearray(content)
            flipped[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
            damaged.append(flipped)
    for bad in damaged:
        checkpoint.write_bytes(bad)
        with pytest.raises(ValueError, match="damaged") as caught:
            load_checkpoint(checkpoint, {})
        assert str(checkpoint) in str(caught.value)
    model = squeeze(seed=5)
    before = weights(model)
    for path in (checkpoint, tmp_path):  # or a folder in its place
        with pytest.raises(ValueError, match="damaged") as caught:
            train(model, stopping, checkpoint=path)
        assert str(path) in str(caught.value)
    assert same(weights(model), before)
    assert checkpoint.read_bytes() == damaged[-1]


def test_long_histories_and_every_kind_of_tensor_come_back(tmp_path):
    path, about = tmp_path / "c", {"identity": {"a": [1.5, None]}, "rows": ["é" * 10] * 10_000}
    state = {
        "model": {"a.b": torch.rand(2, 3).T, "half": torch.ones(2).bfloat16()},
        "other": {"count": torch.tensor(7), "flags": torch.tensor([True]), "none": torch.ones(0)},
    }
    save_checkpoint(path, state, about)
    found, said = load_checkpoint(path, {"a": [1.5, None]})
    assert said == about
    assert all(same(found[group], state[group]) for group in state)
    assert found["model"]["half"].dtype == torch.bfloat16
    # safetensors refuses headers above 100 MB: what grows with the steps must lie elsewhere.
    assert int.from_bytes(path.read_bytes()[:8], "little") < 2000


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [("file", "fsync", OSError(errno.ENOSPC, "No space left on device")), ("folder", None, OSError()),
     ("file", "replace", OSError(errno.EROFS, "Read-only")), ("file/below", None, OSError()),
     ("file", "fsync", KeyboardInterrupt())],
)  # fmt: skip
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, place, name, error):
    def fail(*_):
        raise error

    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    if name:
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / place, b"new")
    if isinstance(error, OSError):
        assert f"could not write {tmp_path / place}" in str(caught.value)
        assert caught.value.errno == (error.errno or caught.value.errno)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"
