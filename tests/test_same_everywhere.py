"""What a program makes is the same on every machine: here, one CPU computes like others.

torch and NumPy choose their code by what a CPU can do, and can be told to do with less. That moves
the last bits of sines, sums and normals, and must move no data set and no order of the examples.
"""

import json
import os
import subprocess
import sys
from functools import cache

import pytest

SCRIPT = """
import hashlib, json, torch
from vae_tutorial import data, fit
from vae_tutorial.data import toy

def digest(tensors):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()[:12]

digits, batches = data.load("digits"), []
sets = [digits, data.binarized(digits), data.load("textures")]
sets += [toy.load(name, train=2000, test=3000) for name in toy.NAMES]
made = {s.name: digest(t for part in s.splits for t in (part.examples, part.labels)) for s in sets}
made["floats"] = digest(data.floats(torch.arange(256, dtype=torch.uint8)))

def objective(model, x):
    batches.append(x)
    return {"loss": model(x[:, None].float()).square().squeeze(1)}

fit(torch.nn.Linear(1, 1), objective, torch.arange(500), epochs=1, device="cpu", progress=False)
made["order of the examples"] = digest(batches[:3])
print(json.dumps([torch.backends.cpu.get_cpu_capability(), made]))
"""
# Whoever changes what is drawn for a toy set gives its recipe a new version, too.
MADE = {
    "digits": "2bf85584b11f", "digits-binarized": "0eecd623c3d2", "textures": "6765864921f0",
    "gaussian": "fad530d50843", "gaussian-rotated": "cd653de387f2", "mixture": "d56d63d21ae4",
    "ring": "95f8b9cd9f8c", "pinwheel": "84ff06fc63f5", "floats": "010413efe9fc",
    "order of the examples": "ddf38181e42f",
}  # fmt: skip
LEVELS = ["DEFAULT", "AVX2", "AVX512"]
NUMPYS = "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX512_SPR X86_V3 X86_V4"


@cache
def run(level: str = "") -> list:
    """The level that a process computed at, by default the CPU's best, and digests."""
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": NUMPYS if level == "DEFAULT" else ""}
    environment |= {"ATEN_CPU_CAPABILITY": level.lower()} if level else {}
    command = [sys.executable, "-c", SCRIPT]
    return json.loads(subprocess.check_output(command, env=environment, text=True))


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_data_whatever_the_cpu_can_do(level):
    best, made = run()
    assert made == MADE
    if level not in LEVELS[: LEVELS.index(best) + 1 if best in LEVELS else 1]:
        pytest.skip(f"this CPU does not support {level}")
    assert level == best or run(level) == [level, MADE]
