"""Many processes against one: the same steps from the same noise, one who writes, a job that dies.

The processes are real, on CPUs, started by torchrun; what they do is in many.py.
"""

import os
import subprocess
import sys
from functools import cache

import many
import pytest
import torch
from conftest import ROOT
from tiny import ROWS, same, squeeze

from vae_tutorial import distributed, evaluate
from vae_tutorial.fit import default_device

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch was built without torch.distributed"
)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What the processes of a task found: a list with a dictionary for each rank."""

    @cache
    def launch(task):
        processes = 3 if task == "three" else 2
        folder = tmp_path_factory.mktemp(task)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={processes}", many.__file__, task, str(folder)]  # fmt: skip
        paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        for dies in (True, False) if task == "killed" else (False,):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            assert (done.returncode != 0) is dies, done.stderr[-3000:]
            assert (folder / "died").exists() is (task == "killed")
        files = [folder / f"{task}-{rank}.pt" for rank in range(processes)]
        return [torch.load(path, weights_only=False) for path in files]

    return launch


@cache
def alone():
    return many.compare(None)


def largest(a, b):
    """How far two sets of weights are apart, by name and value."""
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


# Those in float64 agree to its rounding; a moving codebook and the third are float32. A bias before
# batch normalization has no gradient but rounding, of which Adam makes steps.
EXACT = {"plain": 1e-9, "clipped": 1e-9, "a last batch of two": 1e-9, "single precision": 1e-6,
         "loader": 1e-9, "compiled": 1e-9, "unused": 1e-9, "synchronized": 1e-7, "moving codebook": 1e-5}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_take_the_steps_of_one(launched, name):
    first, second = (found["compare"][name] for found in launched("all"))
    assert same(first["weights"], second["weights"])  # replicas to the bit
    assert largest(first["weights"], alone()[name]["weights"]) < EXACT[name]
    assert first["history"].keys() == alone()[name]["history"].keys()
    for column, values in alone()[name]["history"].items():
        if column != "perplexity":  # of a batch as a whole: of a share it is another
            expected = values if isinstance(values[0], str) else pytest.approx(values, rel=1e-4, nan_ok=True)  # fmt: skip
            assert first["history"][column] == expected, column


def test_the_trainings_exercise_what_they_are_named_after():
    norms = torch.tensor(alone()["clipped"]["history"]["gradient_norm"])
    assert norms.nan_to_num(1.0).min() > 0.01
    start = many.made(many.Alternating).state_dict()
    after = alone()["unused"]["weights"]
    moved = {name for name in start if not torch.equal(start[name], after[name])}
    assert moved == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
    assert alone()["moving codebook"]["weights"]["quantizer.counts"].min() < 1


def test_batch_normalization_of_shares_is_another_model_and_still_one_for_all(launched):
    first, second = (found["compare"]["batch norm"]["weights"] for found in launched("all"))
    assert same(first, second)  # running means, too
    assert largest(first, alone()["batch norm"]["weights"]) > 1e-3
    # Synchronized, it is that of one process with torch's own.
    synchronized = launched("all")[0]["compare"]["synchronized"]["weights"]
    assert largest(synchronized, alone()["batch norm"]["weights"]) < 1e-7


def test_synchronized_batch_normalization_is_that_of_the_whole(launched):
    whole = many.normalize(None)
    parts = [found["normalize"] for found in launched("all")]
    for name, expected in whole.items():
        for rank, part in enumerate(found[name] for found in parts):
            for value in ("y", "x", "judged"):
                torch.testing.assert_close(part[value], expected[value][rank::2])
            torch.testing.assert_close(part["gradients"], expected["gradients"])
            torch.testing.assert_close(part["buffers"], expected["buffers"])


def test_bfloat16_and_noise_of_their_own_keep_the_replicas_alike(launched):
    for name in ("bfloat16", "drawn"):
        first, second = (found["compare"][name] for found in launched("all"))
        assert same(first["weights"], second["weights"])
        assert first["history"]["loss"] == second["history"]["loss"]
    # Other noise, so another training, of nearly the same loss.
    assert largest(first["weights"], alone()["drawn"]["weights"]) > 1e-6
    assert first["history"]["loss"][-1] == pytest.approx(alone()["drawn"]["history"]["loss"][-1], rel=0.2)  # fmt: skip


@pytest.mark.parametrize(("task", "processes"), [("all", 2), ("three", 3)])
@pytest.mark.parametrize("examples", ["tensors", "loader"])
def test_the_order_is_shared_and_the_noise_is_not(launched, task, processes, examples):
    ranks = [found["share_examples"][examples] for found in launched(task)]
    whole = many.share_examples(None)[examples]
    for step, (rows, _) in enumerate(whole):
        shares = [found[step][0] for found in ranks]
        for rank, share in enumerate(shares):
            expected = rows[rank::processes] or rows[:1]  # where none is left, one of weight zero
            assert share == expected
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    drawn = [number for found in ranks for _, number in found]
    assert len(set(drawn)) == len(drawn) == processes * len(whole)


@pytest.mark.parametrize(("task", "processes"), [("all", 2), ("three", 3)])
def test_evaluation_is_shared_out_and_says_the_same(launched, task, processes):
    model = squeeze().double()
    expected = evaluate(model, many.given_noise, many.WIDE)
    for found in launched(task):
        for name, (mean, error) in found["share_examples"]["evaluated"].items():
            assert mean == pytest.approx(float(expected[name]), rel=1e-12)
            assert error == pytest.approx(expected[name].standard_error, rel=1e-10)
        assert "fewer processes" in found["too_few"]


def test_three_processes_where_the_last_batch_has_two_examples(launched):
    for name in ("plain", "a last batch of two"):
        ranks = [found["compare_few"][name]["weights"] for found in launched("three")]
        assert same(ranks[0], ranks[1])
        assert same(ranks[0], ranks[2])
        assert largest(ranks[0], alone()[name]["weights"]) < 1e-9


def test_the_first_process_alone_writes_and_draws_the_bar(launched):
    first, second = (found["write"] for found in launched("all"))
    checkpoints = ["checkpoint.safetensors"] * 2
    assert first["written"] == [*checkpoints, "model.safetensors", "run.json"]
    assert second["written"] == []
    assert [first["bar"], second["bar"]] == [True, False]
    assert same(first["weights"], second["weights"])
    assert first["metrics"] == second["metrics"]
    assert first["device"].endswith(", 2 processes")


def test_after_a_training_a_process_may_compute_alone(launched):
    first, second = (found["after_all"] for found in launched("all"))
    assert first > 0
    assert second is None


def test_a_job_whose_process_dies_goes_on_to_the_same_bytes(launched):
    unbroken = launched("all")[0]["unbroken"]
    for found in (rank["killed"] for rank in launched("killed")):  # by the same command again
        assert same(found["weights"], unbroken["weights"])
        for column, values in unbroken["history"].items():
            assert str(found["history"][column]) == str(values)  # NaN where a row has no such term


def test_checkpoints_that_only_some_processes_find_are_refused(launched):
    for found in launched("killed"):
        assert "shared" in found["disagree"]
        assert "[3, 0]" in found["disagree"]


def test_a_job_of_two_may_be_gone_on_with_by_one(launched):
    first = launched("all")[0]
    history, job = many.killed(None, first["half"], many.stops)["history"], first["unbroken"]["history"]  # fmt: skip
    assert history["epoch"] == job["epoch"]
    done = history["epoch"].count(1) + history["epoch"].count(2)
    assert history["loss"][:done] == job["loss"][:done]  # two epochs by two
    # The third by one: other noise, the same kind of loss.
    assert history["loss"][done:] != job["loss"][done:]
    assert history["loss"][done:] == pytest.approx(job["loss"][done:], rel=0.2)


def test_one_process_is_left_alone(monkeypatch):
    device = default_device()
    assert distributed.join(device) == device
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.share((ROWS,)) == ((ROWS,), 1.0)
    assert distributed.mean(ROWS) is distributed.total(ROWS) is distributed.from_first(ROWS) is ROWS
    assert distributed.own(7) == 7


def test_a_gpu_for_each_process_or_none(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="2 processes for 1 GPU"):
        distributed.join(torch.device("cuda"))
    assert not torch.distributed.is_initialized()
