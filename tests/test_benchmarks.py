"""The benchmarks of memory, of several ranks, of resuming and of convolutional networks, in seconds."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from sklearn.datasets import load_digits

from ff_lightning.blocks import Block
from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.networks import Lookahead
from ff_lightning.signals import Signal
from tests.texts import gpt, windows
from tests.two_ranks import SLEEPING

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


def test_lookahead_keeps_as_many_blocks_alive_however_deep(benchmark: Any) -> None:
    meter, peaks = benchmark("meter"), {}
    for horizon in range(3):
        ahead = Lookahead(horizon=horizon) if horizon else None
        for depth in (3, 9):
            network = gpt(layers=depth, loss=Softmax(), lookahead=ahead)
            tokens = windows(8)
            signal = network.signal(tokens[:, :-1], tokens[:, 1:])
            with meter.saved_peak([*network.parameters(), *network.buffers(), *tokens]) as saved:
                for step in network.local_losses(signal):
                    step.loss.backward()
                    del step
            peaks[horizon, depth] = saved.bytes
    copy = peaks[1, 3] - peaks[0, 3]
    assert 0.7 * peaks[0, 3] < copy < peaks[0, 3]  # its weights are constants: it keeps less than a block that learns
    for horizon in (1, 2):
        assert peaks[horizon, 9] == peaks[horizon, 3] == peaks[0, 3] + horizon * copy


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_depth_is_compared_with_twins_and_goes_on_where_it_stopped(benchmark: Any, tmp_path: Path) -> None:
    """What is done is not trained again; backprop asks of the last block what its own loss asks, when both are T2."""
    text = tmp_path / "text.txt"
    text.write_text("".join(topics[name] for name in sorted(topics)[:40]))
    sizes = ["--tokens", "characters", "--layers", "2", "--layers-per-block", "1", "--width", "32", "--context", "16"]
    where = ["--data", str(text), "--folder", str(tmp_path / "depth"), "--precision", "32-true"]
    words = [*where, *sizes, "--steps", "4", "--judged", "512", "--cosines", "1", "--lookahead", "1"]
    depth = benchmark("depth", *words)
    found = depth.compare(depth.arguments())
    assert len(found["per_block"]) == len(found["supervised_per_block"]) == 2
    ((below, top),) = found["cosine"].values()
    assert top == pytest.approx(1, abs=1e-3)
    assert below < 0.999
    again = depth.compare(depth.arguments())
    assert {**again, "ms": 0, "twin_ms": 0, "cosine": 0} == {**found, "ms": 0, "twin_ms": 0, "cosine": 0}
    benchmark("depth", *words, "--judged", "1024")  # what is trained is kept, and all of it judged anew
    longer = depth.compare(depth.arguments())
    assert longer["cpu_seconds"] == found["cpu_seconds"]
    assert all(longer[key] != found[key] for key in ("per_block", "average", "twin", "block_1", "independent"))
    benchmark("depth", *words, "--without", "independent")
    fewer = depth.compare(depth.arguments())
    assert (fewer["independent"], fewer["twin"]) == (None, found["twin"])
    benchmark("depth", *words, "--lr", "0.01", "--twin-lr", "0.02")
    rates = {arm: depth.with_rates(depth.arguments(), arm).lr for arm in depth.ARMS}
    assert {arm for arm, rate in rates.items() if rate == 0.02} == set(depth.BY_BACKPROP)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_changes_to_a_chain_are_paired_with_it(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a change the chain is the arm `chain`, to the last digit; every change is one."""
    text = tmp_path / "text.txt"
    text.write_text("".join(topics[name] for name in sorted(topics)[:40]))
    sizes = ["--tokens", "characters", "--layers", "3", "--layers-per-block", "1", "--width", "32", "--context", "16"]
    where = ["--data", str(text), "--precision", "32-true", "--steps", "8", "--judged", "512", "--lr", "0.02"]
    where += ["--lookahead", "1", "--refresh", "2", "--cosines", "0", "--folder"]
    depth = benchmark("depth", *where, str(tmp_path / "chain"), *sizes)
    args = depth.arguments()
    (data := depth.data(args)).prepare_data()
    data.setup("fit")
    usual = depth.measure(args, "chain", data)[0]["per_block"]
    ideas, gpt_of_depth, found = benchmark("depth_ideas"), depth.GPT, {}
    for idea in ideas.IDEAS:
        monkeypatch.setattr(depth, "GPT", gpt_of_depth)
        benchmark("depth_ideas", *where, str(tmp_path / "ideas"), *sizes, "--idea", idea).main()
        found[idea] = json.loads(capsys.readouterr().out.splitlines()[-1])["per_block"]
    assert found.pop("none") == usual
    assert all(losses != usual for losses in found.values()), found


def test_comparing_gradients_touches_nothing(benchmark: Any) -> None:
    """Copies that are as old as those of a training stay so, and no gradient is left behind."""
    network = gpt(layers=3, loss=Softmax(), lookahead=Lookahead(refresh=2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert len(benchmark("depth").cosines(network, windows(4))) == 3
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.fixture
def tune(benchmark: Any, tmp_path: Path) -> Any:
    """Tunes a small recipe on a grid; its JSON, or what is left where it was stopped."""

    def started(grid: str, *words: str, recipe: str = "digits_mlp") -> Any:
        (tmp_path / "grid.yaml").write_text(grid)
        where = ["--grid", str(tmp_path / "grid.yaml"), "--folder", str(tmp_path / "tune"), "--processes", "1"]
        recipes = ["--recipe", recipe, "--recipe", "with/smoke"]
        return benchmark("tune", *recipes, *where, "--model.network.widths", "[20]", *words)

    return started


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_grid_is_tried_once_and_goes_on_where_it_stopped(tune: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that was cut off is made anew; one that diverged has no value and stands last."""
    module = tune("model.optimizer.init_args.lr: [1.0e+30, 0.01, 0.02]")
    args = module.arguments()
    space = module.read_space(args.grid)
    study = module.open_study(args, space, "max")
    study.ask(space)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "WAITING", "WAITING"]
    module.main()
    first = json.loads(capsys.readouterr().out)
    assert {row["model.optimizer.init_args.lr"] for row in first["trials"][:2]} == {0.01, 0.02}
    assert all(0 < row["value"] < 1 for row in first["trials"][:2])
    assert first["trials"][0]["value"] >= first["trials"][1]["value"]
    assert math.isnan(first["trials"][2]["value"])
    module.main()
    assert json.loads(capsys.readouterr().out)["trials"][:2] == first["trials"][:2], "nothing ran again"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_twin_is_tuned_over_ranges(tune: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """More trials go on from those that are done."""
    grid = "model.optimizer.init_args.lr: {low: 0.001, high: 0.1, log: true}"
    for trials in (1, 3):
        module = tune(grid, "--recipe", "with/twin", "--trials", str(trials), "--seeds", "0", "1")
        module.main()
        found = json.loads(capsys.readouterr().out)["trials"]
        assert len(found) == trials
    assert all(0.001 <= row["model.optimizer.init_args.lr"] <= 0.1 for row in found)
    assert all(len(row["values"]) == 2 for row in found)


@pytest.mark.parametrize(
    "grid",
    [
        "",
        "- 1",
        "a: []",
        "a: [1, 1]",
        "a: {low: 2, high: 1}",
        "a: {low: few, high: 1}",
        "a: {low: 0, high: 1, log: true}",
        "a: 3",
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(tune: Any, grid: str) -> None:
    module = tune(grid)
    with pytest.raises(InputError, match=r"--grid"):
        module.read_space(module.arguments().grid)


def test_a_range_may_have_numbers_that_yaml_reads_as_text(tune: Any) -> None:
    module = tune("a: {low: 1e-3, high: 1e-2, log: true}")
    (found,) = module.read_space(module.arguments().grid).values()
    assert (found.low, found.high, found.log) == (0.001, 0.01, True)


def test_every_block_may_read_the_image(benchmark: Any) -> None:
    torch.manual_seed(0)
    network = benchmark("conv_image").ImageBeside((1, 8, 8), [4, 4, 4], pool_after=[0], num_classes=10)
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
    below, signal = network[0].local_step(Signal(x, y))
    assert torch.equal(signal.h[:, -1:], torch.nn.functional.avg_pool2d(x, 2))
    _, above = network[1].local_step(signal)
    assert torch.equal(above.h[:, -1:], signal.h[:, -1:])
    assert [step.block for step in network.local_losses(Signal(x, y))] == [0, 1, 2]
    assert below.loss.requires_grad


@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["ddp", "layer_parallel"])
def test_two_ranks_are_faster_than_one(
    benchmark: Any, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_ranks_folder: Path
) -> None:
    """With sleeping blocks, also on a busy machine; and what is sent is what the strategies promise."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    parallel = benchmark("parallel", "--strategy", strategy, *SLEEPING)
    args = parallel.arguments()
    if strategy == "ddp":
        two = parallel.stored(two_ranks_folder / "benchmark", ranks=2)
    else:
        two = parallel.launch(args, tmp_path, ranks=2)
    assert parallel.step_seconds(two, "sleep") < 0.75 * args.blocks * args.sleep, "one rank cannot take less than all"
    block = 4 * (16 * 16 + 16)
    expected = {
        # A block's gradients; and of Lightning's question whether to stop, 8 bytes a step.
        "ddp": {"collectives_per_step": 3, "messages_per_step": 0, "bytes_per_step": 2 * block + 8},
        # An envelope, and 16 rows of activities.
        "layer_parallel": {"collectives_per_step": 0, "messages_per_step": 2, "bytes_per_step": 8192 + 4 * 16 * 16},
    }
    assert parallel.traffic(two, args.steps) == expected[strategy]


def test_bubbles_of_pipelines_trained_by_backprop(benchmark: Any) -> None:
    parallel = benchmark("parallel")
    assert parallel.bubbles(2)["gpipe_bubble"] == {"1": 0.5, "4": 0.2, "16": 0.059}
    assert parallel.bubbles(4)["one_f_one_b_bubble"]["4"] == round(3 / 7, 3)


def test_results_name_the_images_that_were_read(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a set on the hub need not be the same: results must say which it was."""
    name_of_images = benchmark("recipe").name_of_images
    copy = tmp_path / "cifar10_jpeg"
    copy.mkdir()
    monkeypatch.delenv("FF_LIGHTNING_DATA", raising=False)
    assert [name_of_images(source) for source in ("uoft-cs/cifar10", str(copy))] == ["cifar10", "cifar10_jpeg"]
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(tmp_path))
    assert name_of_images("uoft-cs/cifar10") == "cifar10_jpeg"
    assert name_of_images("digits") == "digits"


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
    few = ["--trainer.max_epochs", "3", *([] if twin else ["--parts", "ff", "--validation-only"])]
    benchmark("conv", "--data", "digits", "--tier", tier, "--seed", "0", "1", *few).main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["tier"], result["seeds"], len(result["by_seed"])) == (tier, [0, 1], 2)
    assert all(one["validation"][one["readout"]] == max(one["validation"].values()) > 80 for one in result["by_seed"])
    assert (result["twin"] is not None) == (result["test_accuracy"] is not None) == twin
    if twin:
        assert min(result["twin"], result["test_accuracy"]) > 80
        assert all(len(one["test_by_block"]) == 3 for one in result["by_seed"])


@pytest.mark.filterwarnings("ignore")
def test_local_losses_come_on_top_of_a_tier(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--parts", "ff", "--validation-only", "--trainer.max_epochs", "2"]
    script = benchmark("conv", "--data", "digits", "--tier", "T2", "--with", "predsim", "averaged_head", *few)
    script.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["recipe"] == "digits_conv + with/class_softmax + with/predsim + with/averaged_head"
    assert result["by_seed"][0]["validation_by_block"][-1] > 50
    benchmark("conv", "--data", "digits", "--with", "predsim")
    with pytest.raises(SystemExit):
        script.main()
    assert "--with predsim compares all classes at once: --tier T2 or T3" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_learning_is_compared_with_backprop(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.max_epochs", "1", "--data.limit", "100", "--data.batch_size", "25", "--looks", "2"]
    benchmark("locality", "--with", "class_softmax", *few).main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["network"], result["tier"]) == ("digits_conv + with/class_softmax", "T2")
    assert list(result["found"]) == ["2", "4"]
    assert [round(block["cosine"], 2) for block in result["found"]["4"]][-1] == 1
    assert all(block["rank_activities"] > 1 for block in result["found"]["4"])


class Stop(pl.Callback):
    """Ends a training as an error would, after some updates."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.after:
            raise RuntimeError("stopped")


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_training_of_a_benchmark_goes_on(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends where one that was never stopped does, and counts the time before the stop; what is done is read."""
    words = ["--data", "digits", "--tier", "T2", "--trainer.max_epochs", "2", "--parts", "ff"]
    conv = benchmark("conv", *words, "--folder", str(tmp_path))
    continued = benchmark("continued", *sys.argv[1:])
    monkeypatch.setattr(continued, "SECONDS_BETWEEN", 0.0)
    args = conv.arguments()
    recipes = [args.recipe, *args.overlays]
    never, stopped, later = (conv.build(args, recipes, 0) for _ in range(3))
    continued.fit(never, None)
    place = continued.folder_of(stopped, tmp_path)
    assert place == continued.folder_of(later, tmp_path) != continued.folder_of(conv.build(args, recipes, 1), tmp_path)
    stopped.trainer.callbacks.append(Stop(after=15))
    with pytest.raises(RuntimeError, match="stopped"):
        continued.fit(stopped, place)
    (kept,) = (one for name, one in torch.load(place / "last.ckpt")["callbacks"].items() if name.startswith("Keeper"))
    assert continued.fit(later, place).cpu_seconds > kept["cpu_seconds"] > 0
    for name, value in never.model.state_dict().items():
        assert torch.equal(value, later.model.state_dict()[name]), name
    conv.main()
    first = capsys.readouterr().out
    assert json.loads(first.splitlines()[-1])["test_accuracy"] > 80
    (place / "last.ckpt").unlink()
    conv.main()
    assert capsys.readouterr().out == first


@pytest.mark.filterwarnings("ignore")
def test_a_twin_is_trained_alone(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("conv", "--data", "digits", "--parts", "twin", "--trainer.max_epochs", "1").main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["test_accuracy"] is None
    assert set(result["by_seed"][0]) == {"seed", "twin_cpu_minutes", "twin_validation", "twin_test"}


@pytest.mark.filterwarnings("ignore")
def test_a_network_with_the_label_in_its_input_is_of_tier_1(
    benchmark: Any, capsys: pytest.CaptureFixture[str], shared_data: Path
) -> None:
    del shared_data
    labelled = ["--data", "mnist", "--recipe", "mnist_labelled_conv"]
    few = ["--data.limit", "200", "--data.validation", "100", "--trainer.max_epochs", "1"]
    script = benchmark("conv", *labelled, "--parts", "ff", "--validation-only", *few)
    script.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["tier"], result["recipe"]) == ("T1", "mnist_labelled_conv")
    assert len(result["by_seed"][0]["validation_by_block"]) == 3
    benchmark("conv", *labelled, "--tier", "T2")
    with pytest.raises(SystemExit):
        script.main()
    assert "mnist_labelled_conv is of tier T1" in capsys.readouterr().err


def test_images_without_a_recipe_are_refused(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script = benchmark("conv", "--data", "letters")
    with pytest.raises(SystemExit):
        script.main()
    assert "--data letters: no recipe for images of that name" in capsys.readouterr().err


SMALL = ["--data", "digits", "--data.validation", "0.2", "--model.network.in_features", "64"]
SMALL += ["--model.network.widths", "[60,60]", "--data.batch_size", "50"]
FAST = ["--data.shift", "0", "--model.optimizer.lr", "0.005", "--trainer.max_epochs", "4"]


@pytest.mark.parametrize(
    ("arguments", "recipe", "worst"),
    [
        (["--trainer.max_epochs", "8"], "mnist_mlp", 20),
        (["--jitter", "--seconds", "1", "--parts", "ff"], "mnist_mlp_jitter", 80),  # an epoch, where that is slow
        (["--recipe", "mnist_predsim", "--parts", "ff", *FAST], "mnist_predsim", 30),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_mlps_are_compared_with_their_twins(
    benchmark: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], recipe: str, worst: float
) -> None:
    script = benchmark("hinton", *SMALL, "--seed", "0", "1", *arguments)
    script.benchmark("mnist_mlp", None, data="ylecun/mnist", jitter="mnist_mlp_jitter")
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    tier = "T2" if recipe == "mnist_predsim" else "T1"
    assert (result["recipe"], result["tier"], result["seed"], result["seeds"]) == (recipe, tier, 0, [0, 1])
    both = "--parts" not in arguments
    assert result["test_error"] < worst
    assert (result["twin"] is not None) == both
    assert not both or (result["twin"] < worst and result["epochs"] == 8)
    for one in result["by_seed"]:
        assert one["epochs"] >= 1
        assert one["samples_per_second"] > 0
        assert {"val", "val/block_0", "val/block_1", "test", "test/block_0", "test/block_1"} < set(one)


def test_overhead_adds_up_what_each_kind_of_step_costs(benchmark: Any) -> None:
    overhead = benchmark("overhead")
    plan = overhead.Plan("mlp", steps=20, epochs=4, threads=1)
    costs = {None: 9.0, "step": 0.01, "logged": 0.11, "epoch": 1.0, "training": 3.0}
    kinds = [plan.kind(step) for step in range(80)]
    assert kinds[:40] == [*[None] * 10, *["step"] * 9, "epoch", *(["step"] * 9 + ["logged"]), *["step"] * 9, "epoch"]
    assert kinds[-1] == "training"
    seconds = [1.5, *(1 + costs[kind] if plan.shows(step) else 1.0 for step, kind in enumerate(kinds))]
    share, _ = overhead.extra(plan, seconds, 1.0, 100, 5)
    every_epoch = 97 * 0.01 + 2 * 0.11 + 1.0
    assert share == pytest.approx((5 * every_epoch + 0.5 + 2.0) / 500)


def test_overhead_gives_half_of_every_kind_of_step_its_callbacks(benchmark: Any) -> None:
    plan = benchmark("overhead").Plan("mlp", steps=40, epochs=8, threads=1)
    shows = {kind: [plan.shows(step) for step in range(320) if plan.kind(step) == kind] for kind in ("logged", "epoch")}
    assert (sum(shows["logged"]), len(shows["logged"])) == (11, 22)
    assert shows["epoch"] == [False, True, False, True, False, True, False]
    assert plan.shows(319)
    assert sum(plan.shows(step) == plan.shows(step + 1) for step in range(319)) < 40


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's digits in the size of MNIST's."""
    images, classes = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return torch.nn.functional.interpolate(x, size=28, mode="bilinear").flatten(1), torch.tensor(classes)


def test_the_peers_learn(benchmark: Any, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    peers = benchmark("peers")
    torch.manual_seed(0)
    loewex, mpezeshki = peers.Loewex((100, 100, 100)), peers.Mpezeshki((50, 50))
    for _ in range(10):  # of CPU seconds, in which machines differ
        assert loewex.train(digits, 1.0, preloaded=True) > 0
        assert mpezeshki.train(digits, 2.0) > 0
        if peers.error(loewex.predict, digits) < 50 and peers.error(mpezeshki.predict, digits) < 85:
            break
    assert peers.error(loewex.predict, digits) < 50
    assert peers.error(mpezeshki.predict, digits) < 85
    right, other, neutral, y = next(iter(loewex.batches(digits, preloaded=False)))
    assert right.shape == other.shape == neutral.shape == (100, 784)
    assert torch.equal(right[:, :10].argmax(1), y)
    assert not (other[:, :10].argmax(1) == y).any()
    assert torch.equal(right[:, 10:], neutral[:, 10:])


def test_no_loss_of_a_peer_reaches_another_layer(
    benchmark: Any, digits: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of the first layer is the same whatever the second one is."""
    peers = benchmark("peers")
    found = []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        loewex = peers.Loewex((20, 20, 20))
        monkeypatch.setattr(loewex.optimizer, "step", lambda: None)
        loewex.layers[1].weight.data.mul_(scale)
        loewex.step(*next(iter(loewex.batches(digits, preloaded=True))), 0.0)
        found.append([layer.weight.grad for layer in loewex.layers])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.filterwarnings("ignore")
def test_a_step_is_compared_with_its_matrix_products(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.source", "digits", "--model.network.in_features", "64", "--model.network.widths", "[40,30]"]
    few = ["--data.validation", "0.5", "--data.batch_size", "50", "--steps", "9", "--precision", "32-true"]
    benchmark("roofline", "--network", "mlp", *small, *few).main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = {(50, 54, 40), (40, 50, 54), (100, 40, 30), (30, 100, 40)}  # of the image part, beside ten label pixels
    assert result["gflop"] == round(sum(2 * a * b * c for a, b, c in rows) / 1e9, 2)
    assert result["step_over_bound"] > 1
    assert sum(result["profile"].values()) == pytest.approx(1, abs=0.01)
    assert result["matmul_share"] == result["profile"]["matrix products"]


def test_products_of_a_step(benchmark: Any) -> None:
    """Five iterations of Muon take three products each; a linear map has three with the gradient of its input."""
    roofline = benchmark("roofline", "--network", "gpt")
    products = roofline.muon(6, 2, torch.float32)
    assert sum(p.times for p in products) == 15
    assert sum(p.times * p.flop for p in products) == 5 * 2 * (2 * 6 * 2 + 2 * 2 * 2 + 2 * 2 * 6)
    both = [roofline.linear(5, 3, 4, torch.float32, to_input=to_input) for to_input in (True, False)]
    assert [sum(p.flop for p in found) for found in both] == [3 * 120, 2 * 120]
    forward, back = roofline.convolution(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.float32)
    assert forward.flop == back.flop == 2 * (2 * 4 * 8 * 8) * 27
    assert forward.run().shape == (2, 4, 8, 8)
    assert back.run().shape == (4, 3, 3, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to check")
def test_the_check_of_a_gpu_says_why_it_does_nothing(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("gpu_check").main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert "torch.cuda.is_available() is False" in result["skipped"]


@pytest.mark.filterwarnings("ignore")
def test_the_check_of_a_gpu_finds_a_loss_that_reaches_another_block(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = benchmark("gpu_check", "--device", "cpu")
    assert check.local(check.arguments()) == {"mlp": True, "conv": True, "gpt": True}
    local_step = Block.local_step

    def without_a_cut(self: Block, signal: Any, *rest: Any, cut: bool = True, **more: Any) -> Any:
        del cut
        return local_step(self, signal, *rest, cut=False, **more)

    monkeypatch.setattr(Block, "local_step", without_a_cut)
    assert not any(check.local(check.arguments())[name] for name in ("mlp", "conv"))


def test_peers_are_given_the_images_that_they_read(benchmark: Any, tmp_path: Path) -> None:
    """In the files in which MNIST was published: big-endian sizes, then bytes."""
    images = torch.arange(2 * 784).remainder(256).view(2, 784) / 255, torch.tensor([3, 9])
    benchmark("peers").write_idx(tmp_path, images, "train")
    raw = (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    assert raw[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
    assert list(raw[16:]) == [i % 256 for i in range(2 * 784)]
    labels = (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").read_bytes()
    assert labels == bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 9])


def test_peers_are_cloned_at_the_commits_that_were_measured(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    peers = benchmark("peers", "--commands")
    peers.main()
    lines = capsys.readouterr().out.splitlines()
    assert all(any(x.repository in line and x.commit in line for line in lines) for x in peers.PEERS.values())


def test_a_task_is_judged_on_validation_rows_as_long_as_it_is_not_settled(benchmark: Any) -> None:
    """The test stays closed, and nobody's rows are those of another split."""
    tasks = benchmark("tasks")
    found = tasks.run(replace(tasks.TASKS["wine"], epochs=1), 0, validation_only=True)
    assert {"validation", "twin_validation", "classical_validation"} <= found.keys()
    assert not [name for name in found if "test" in name]
    pairs = tasks.Pairs(0).pairs
    assert {split: len(some) for split, some in pairs.items()} == tasks.SIZES
    x, y = pairs["validation"].tensors
    assert (x.shape[1:], y.shape[1]) == ((1, 8, 16), 10)
    assert set(y.sum(1).tolist()) == {1.0, 2.0}
    halves = [{half.numpy().tobytes() for half in pairs[split].tensors[0].split(8, 3)[0]} for split in tasks.SIZES]
    assert not halves[0] & halves[1]
    assert not halves[0] & halves[2]


@pytest.mark.filterwarnings("ignore")
def test_a_pretrained_model_is_fine_tuned_by_every_way(benchmark: Any, tmp_path: Path) -> None:
    """In one process here. Recomputing in plain transformers and looking ahead in two blocks are backprop."""
    models = pytest.importorskip("tests.transformers_models", reason="needs the extra `transformers`")
    pytest.importorskip("peft", reason="needs the extra `benchmarks`")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(topics[name] for name in sorted(topics)[:20]))
    where = ["--model", str(models.folder(tmp_path / "model")), "--data", str(text), "--folder", str(tmp_path / "runs")]
    sizes = ["--steps", "3", "--batch", "2", "--context", "12", "--judged", "120", "--judged-context", "12"]
    script = benchmark("fine_tune")
    words = [*where, *sizes, "--fit", "2", "--save-every", "2", "--lr", "1e-3"]
    (tmp_path / "runs").mkdir()
    arms = ("before", "backprop", "hf_checkpointed", "lora", "last_block", "own_recompute", "reconstruct", "lookahead")
    for arm in arms:
        script.one_arm(script.arguments([*words, "--one", arm]))
    found = script.collected(script.arguments(words))
    losses = {arm: found[arm] for arm in ("before", "backprop", "hf_checkpointed", "lora")} | found["blocks"]["2"]
    assert losses.keys() == set(arms)
    assert losses["hf_checkpointed"] == pytest.approx(losses["backprop"], abs=2e-4)
    assert losses["lookahead"] == pytest.approx(losses["backprop"], abs=2e-4)
    assert len(set(losses.values())) >= 6
    assert found["last_block"] == losses["last_block"]
    assert len(found["peak_mb"]) == len(found["seconds_per_step"]) == len(arms) - 1


@pytest.mark.filterwarnings("ignore")
def test_a_training_without_a_validation_judges_no_setting(tune: Any) -> None:
    module = tune("a: [1]")
    words = ["--model.network.widths", "[20]", "--trainer.max_epochs", "1"]
    for name, value in (("check_val_every_n_epoch", 2), ("limit_val_batches", 0)):
        with pytest.raises(InputError, match=rf"`trainer.{name}={value}.*ended without a validation"):
            module.train(["digits_mlp", "with/smoke"], [*words, f"--trainer.{name}={value}"], [0])


def test_a_time_and_a_folder_to_go_on_from_are_refused(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script = benchmark("hinton", "--seconds", "5", "--folder", "kept")
    with pytest.raises(SystemExit):
        script.arguments("mnist_mlp", None, "digits", {})
    assert "error: --seconds 5 with --folder kept: " in capsys.readouterr().err.splitlines()[-1]


def test_the_twin_of_self_contrast_has_the_changes_of_data_trainer_and_network(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ["--data.limit", "100", "--trainer.precision=32-true", "--model.network.widths", "[20, 20]"]
    own = ["--model.readout.dropout", "0.0", "--model.schedule.shares=[1,1,1]"]
    script, seen = benchmark("scff", "--recipe", "mnist_scff", *own[:2], *shared, own[2]), []
    monkeypatch.setattr(script, "measured", lambda _, recipes, changes: seen.append((recipes, changes)) or ({}, 1.0))
    script.main()
    assert seen == [
        (["mnist_scff"], [*own[:2], *shared, own[2]]),
        (["mnist_scff", "with/twin"], [*shared, "--trainer.max_epochs=4", "--model.optimizer.lr=0.001"]),
    ]
