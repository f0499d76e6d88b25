"""The benchmarks of memory, of resuming and of convolutional networks, at a size that takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark, as if it had been started with some arguments."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name: str, *arguments: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        return __import__(name)

    return load


def test_the_meter_counts_what_is_allocated(benchmark: Any) -> None:
    meter = benchmark("meter")
    with meter.allocated_peak() as peak:
        a = torch.zeros(1000, 1000)
        b = torch.zeros(500, 1000)
        del a
        torch.zeros(600, 1000).neg()
        del b
    assert peak.bytes == pytest.approx(4 * (500 + 600 + 600) * 1000, abs=64), "and a few scalars"


def test_the_meter_counts_what_is_saved(benchmark: Any) -> None:
    meter = benchmark("meter")
    weight = torch.randn(300, 200, requires_grad=True)
    x = torch.randn(100, 200)
    with meter.saved_peak([weight]) as saved:
        for _ in range(3):  # each graph is freed before the next
            (x @ weight.T).relu().sum().backward()
    assert saved.bytes == 4 * (100 * 200 + 100 * 300)


@pytest.mark.parametrize("network", ["mlp", "gpt"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_streamed_memory_does_not_grow_with_depth(benchmark: Any, network: str) -> None:
    size = ["--width", "32", "--batch", "64"] if network == "mlp" else ["--width", "32", "--batch", "4"]
    memory = benchmark("memory", "--network", network, *size)
    args, depths = memory.arguments(), [3, 9]
    rows = [row for depth in depths for row in (*memory.backprop_rows(args, depth), memory.ff_row(args, depth))]
    saved = {(row["mode"], row["depth"]): row["saved_mib"] for row in rows}
    assert memory.ratios(rows, depths)["streamed_flatness"] <= 1.05
    assert saved["ff streamed", 9] == saved["ff streamed", 3]
    assert saved["backprop", 9] > 1.2 * saved["backprop", 3]
    assert saved["checkpointed", 9] < saved["backprop", 9]


def test_a_killed_run_resumes_bit_by_bit(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    resume = benchmark("resume", "--network", "mlp", "--kills", "1")
    assert resume.compare(resume.arguments(), ranks=1) == 1


def test_a_difference_of_one_bit_is_found(benchmark: Any) -> None:
    resume = benchmark("resume")
    x = torch.tensor([1.0, 2.0])
    assert resume.same({"a": [x, 1]}, {"a": [x.clone(), 1]})
    assert not resume.same({"a": [x, 1]}, {"a": [x.nextafter(x + 1), 1]})
    assert not resume.same({"a": x}, {"a": x.double()})
    assert not resume.same({"a": x}, {"a": x, "b": x})


@pytest.mark.parametrize(("tier", "twin"), [("T1", True), ("T3", False)])
@pytest.mark.filterwarnings("ignore")
def test_convolutional_networks_are_compared_with_their_twins(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tier: str, twin: bool
) -> None:
    few = ["--trainer.max_epochs", "3", *([] if twin else ["--no-twin", "--validation-only"])]
    benchmark("conv", "--data", "digits", "--tier", tier, "--seed", "0", "1", *few).main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["tier"], result["seeds"], len(result["by_seed"])) == (tier, [0, 1], 2)
    assert all(one["validation"][one["readout"]] == max(one["validation"].values()) > 80 for one in result["by_seed"])
    assert (result["twin"] is not None) == (result["test_accuracy"] is not None) == twin
    if twin:
        assert min(result["twin"], result["test_accuracy"]) > 80
        assert all(len(one["test_by_block"]) == 3 for one in result["by_seed"])
