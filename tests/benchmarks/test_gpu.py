"""The benchmark of a GPU, on a CPU and at its smallest: that it runs, and what it writes."""

import json

import gpu
import torch


def test_it_measures_all_four_and_names_the_machine(tmp_path, capsys):
    gpu.main(
        [
            *("--source", "tests.models:MeanColour", "--device", "cpu", "--crop", "32"),
            *("--sizes", "2", "--seconds", "0.2", "--results", str(tmp_path)),
        ]
    )
    told = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert (told["device"], told["torch"]) == ("cpu", torch.__version__)
    (row,) = told["items_per_second"]
    assert row["size"] == 2
    assert all(row[name] > 0 for name in ("module", "forward", "tensors", "jpeg"))
    assert "÷ module" in capsys.readouterr().out
