"""Executing notebooks: what is said of trainings that take hours."""

import json
import os
import sys

import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import execute


def store(folder, name, seconds, stamp):
    path = folder / name / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds}))
    os.utime(path, ns=(stamp, stamp))


@pytest.fixture
def stored(tmp_path):
    for name, seconds in {"mnist/a": 100, "mnist/b": 7200, "ring/c": 3600}.items():
        store(tmp_path, name, seconds, 1)
    return tmp_path


def test_what_is_left_goes_by_the_time_that_the_done_ones_took(stored):
    trainings = execute.Trainings(stored, whole=True)
    assert trainings.total() == "3 stored runs took 3.0 h when they were trained last"
    assert trainings.news() == []
    store(stored, "mnist/a", 50, 2)  # twice as fast: so the 3 hours left become 1.5
    assert trainings.news() == ["mnist/a: 50 s (100 s last time); 2 left, about 1.5 h"]
    assert trainings.news() == []
    store(stored, "ring/c", 3600, 2)  # 3650 s where it was 3700 s
    store(stored, "ring/d", 5, 2)
    assert trainings.news() == [
        "ring/c: 3600 s (3600 s last time); 1 left, about 2.0 h",
        "ring/d: 5 s (new); 1 left, about 2.0 h",
    ]


def test_of_a_part_of_the_notebooks_nobody_knows_what_is_left(stored):
    trainings = execute.Trainings(stored, whole=False)
    store(stored, "mnist/a", 50, 2)
    assert trainings.news() == ["mnist/a: 50 s (100 s last time)"]


def test_a_notebook_says_what_each_cell_has_trained(stored, tmp_path, capsys):
    path = tmp_path / "one.ipynb"
    source = f"open({str(stored / 'mnist/b/run.json')!r}, 'w').write('{{\"seconds\": 3600}}');"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, path)
    execute.execute(path, execute.Trainings(stored, whole=True))
    assert capsys.readouterr().out == (
        "  mnist/b: 3600 s (7200 s last time); 2 left, about 0.5 h\n"
    )
