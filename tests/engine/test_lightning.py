"""Private names of other packages: Lightning's stand in one file and fail by name; every other is in the list here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

import ff_lightning
from ff_lightning.engine import lightning as names
from ff_lightning.errors import InputError
from tests.private_names import Finder, exists, finder, tree_of
from tests.training import classifier, loader, trainer

ROOT = Path(ff_lightning.__file__).parent
HOME = "engine/lightning.py"


class Foreign(NamedTuple):
    """A private name of another package, and where it is in that package."""

    file: str
    name: str
    place: str
    reason: str


COPY = "a copy of a module that shares its parameters and has other parts; torch has no public way"
OTHER_LIBRARIES = ("timm.", "torchvision.", "transformers.")
TREES = "torch has no public name for its trees of tensors in all versions that we take"
HELP = "jsonargparse has no public list of subcommands and options, of which help and hints are made"
LISTED = [
    # Overrides: they must stay in the class that overrides.
    Foreign(
        *(
            "callbacks/checkpoints.py",
            "_save_checkpoint",
            "lightning.pytorch.callbacks.ModelCheckpoint._save_checkpoint",
        ),
        "the one place that all kinds of saving pass: best.ckpt waits there for last.ckpt",
    ),
    Foreign(
        *("cli/train.py", "_parse_ckpt_path", "lightning.pytorch.cli.LightningCLI._parse_ckpt_path"),
        "it would put the model of a checkpoint in the place of what was passed; no option turns it off",
    ),
    Foreign(
        *(
            "module.py",
            "_on_before_batch_transfer",
            "lightning.pytorch.LightningModule._on_before_batch_transfer",
        ),
        "the public hook makes Lightning warn beside any data module, and one of a data module takes its place",
    ),
    Foreign(
        *("metrics.py", "_apply", "torch.nn.Module._apply"),
        "`to`, `half` and `double` all pass it; sums must stay exact",
    ),
    # Uses.
    *(
        Foreign(
            "cli/recipes.py", name, place, "jsonargparse has no public way to drop a link that a recipe makes needless"
        )
        for name, place in {
            "_links_group": "jsonargparse._link_arguments._links_group",
            "_group_actions": "argparse._ArgumentGroup._group_actions",
        }.items()
    ),
    Foreign("callbacks/progress.py", "_pytree", "torch.utils._pytree.tree_leaves", TREES),
    Foreign("engine/batches.py", "_pytree", "torch.utils._pytree.tree_leaves", TREES),
    Foreign("engine/hyperparameters.py", "_pytree", "torch.utils._pytree.tree_leaves", TREES),
    Foreign("strategies/layer_parallel.py", "_pytree", "torch.utils._pytree.tree_map", TREES),
    Foreign("strategies/pipeline.py", "_pytree", "torch.utils._pytree.register_pytree_node", TREES),
    Foreign(
        *("finetuning/cutting.py", "_reparametrize_module", "torch.nn.utils.stateless._reparametrize_module"),
        "`torch.func.functional_call` does this for a forward pass; nothing public does it for one within backward",
    ),
    Foreign(
        *("cli/numbers.py", "_cleanups", "typing._cleanups"),
        "no public name makes `typing` forget the unions that it keeps, in whatever order a library wrote them first",
    ),
    Foreign("cli/parser.py", "_subcommands_action", "jsonargparse.ArgumentParser._subcommands_action", HELP),
    Foreign("cli/parser.py", "_name_parser_map", "argparse._SubParsersAction._name_parser_map", HELP),
    Foreign("cli/parser.py", "_actions", "argparse.ArgumentParser._actions", HELP),
    Foreign(
        *("data/corpora.py", "_fingerprint", "datasets.Dataset._fingerprint"),
        "a text has changed if this has; datasets has no public name for it",
    ),
    Foreign(
        *("data/corpora.py", "_resolve_features", "datasets.IterableDataset._resolve_features"),
        "columns of a streamed text; no public way reads them without its rows",
    ),
    Foreign(
        *("data/encodings.py", "_mergeable_ranks", "tiktoken.Encoding._mergeable_ranks"),
        "tiktoken's own documentation makes encodings from another's like this",
    ),
    Foreign(
        *("data/encodings.py", "_pat_str", "tiktoken.Encoding._pat_str"),
        "tiktoken's own documentation makes encodings from another's like this",
    ),
    Foreign(
        *("engine/compilation.py", "_dynamo", "torch._dynamo.config.recompile_limit"),
        "`torch.compiler.config` has no such limit in the oldest torch that we take",
    ),
    Foreign(
        *("schedules.py", "_last_lr", "torch.optim.lr_scheduler.LRScheduler._last_lr"),
        "what `get_last_lr` gives must be right before the first step; no public way sets it",
    ),
    Foreign("conversion/chains.py", "_version", "torch.Tensor._version", "no public name says what changed in place"),
    *(
        Foreign("conversion/families.py", name, f"torch.nn.Module.{name}", COPY)
        for name in ("_parameters", "_buffers", "_modules")
    ),
    Foreign(
        *("conversion/families.py", "_pos_embed", "timm.models.vision_transformer.VisionTransformer._pos_embed"),
        "timm has no public name for what comes before its layers",
    ),
    Foreign(
        *("conversion/families.py", "_process_input", "torchvision.models.VisionTransformer._process_input"),
        "torchvision has no public name for what comes before its layers",
    ),
    Foreign(
        *("conversion/families.py", "_attn_implementation", "transformers.PreTrainedConfig._attn_implementation"),
        "masks have another form for each, and transformers has no public name for which it is",
    ),
    Foreign(
        *("strategies/layer_parallel.py", "_opt_called", "torch.optim.lr_scheduler._opt_called"),
        "a scheduler warns of an optimizer that never steps, and here another rank steps it",
    ),
]


@pytest.fixture(scope="module")
def found() -> dict[str, Finder]:
    """What is found in every file of the package."""
    finders = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        finders[file.relative_to(ROOT).as_posix()] = finder(file, module)
    return finders


SAMPLE = """
from torch.nn.modules.batchnorm import _NormBase
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

class Base:
    _mine = 1

class Saves(Base, ModelCheckpoint):
    def _save_checkpoint(self, trainer, filepath):
        self._own = self._mine
        return super()._get_metric_interpolated_filepath_name({}, trainer), self._own

class Bar(RichProgressBar):
    def start(self, other):
        self._refresh_rate = 1
        other._assigned = 2
        return getattr(other, "_read"), vars(other)["_looked_up"], other._replace(a=1)
"""


def test_every_kind_of_private_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(SAMPLE)
    spec = importlib.util.spec_from_file_location("sample", tmp_path / "sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sample", module)
        spec.loader.exec_module(module)
        sample = finder(tmp_path / "sample.py", module)
    assert sample.overrides == {"_save_checkpoint", "_refresh_rate"}
    assert sample.uses == {
        *("_NormBase", "_get_metric_interpolated_filepath_name", "_refresh_rate", "_assigned", "_read", "_looked_up"),
    }


def test_private_names_of_others_are_listed_and_nothing_else_is(found: dict[str, Finder]) -> None:
    here = {(file, name) for file, one in found.items() if file != HOME for name in one.uses | one.overrides}
    assert here - {(one.file, one.name) for one in LISTED} == set(), "put them into the list, or use a public way"
    assert {(one.file, one.name) for one in LISTED} - here == set(), "they are gone: strike them off"


def test_of_lightning_only_overrides_are_listed(found: dict[str, Finder]) -> None:
    ours = [one for one in LISTED if one.place.startswith("lightning.")]
    assert ours
    assert all(one.name in found[one.file].overrides for one in ours)


@pytest.mark.parametrize("one", LISTED, ids=lambda one: f"{one.file}:{one.name}")
def test_a_listed_name_is_in_the_installed_version(one: Foreign) -> None:
    assert one.name in one.place.split(".")
    if one.place.startswith(OTHER_LIBRARIES):
        pytest.importorskip(one.place.split(".")[0], reason="needs the library that the name is of")
    assert exists(one.place)
    assert not exists(one.place + "_of_old")


# The functions ---------------------------------------------------------------------------------------------------


class Hooks(pl.Callback):
    """Records the optimizers that are about to step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_before_optimizer_step(self, _: Any, __: Any, optimizer: Any) -> None:
        self.seen.append(optimizer)


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Real objects of Lightning's after a training of one step."""
    folder, hooks = tmp_path_factory.mktemp("run"), Hooks()
    run = trainer(folder, max_steps=1, callbacks=[hooks])
    module = classifier()
    run.fit(module, loader(40, 20))
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "default_root_dir": str(folder)}
    return SimpleNamespace(
        run=run,
        module=module,
        hooks=hooks,
        saver=ModelCheckpoint(train_time_interval=timedelta(minutes=5)),
        ddp=DDPStrategy(static_graph=True),
        sharded=ModelParallelStrategy(save_distributed_checkpoint=False),
        cli=LightningCLI(BoringModel, run=False, args=[], seed_everything_default=False, trainer_defaults=quiet),
    )


def sigterm(x: SimpleNamespace) -> None:
    names.replace_sigterm(x.run, print, print)
    names.restore_sigterm(x.run)


CASES: dict[str, tuple[Callable[[SimpleNamespace], Any], Callable[[SimpleNamespace], Any]]] = {
    "_compiler_ctx": (lambda x: x.module, lambda x: names.is_compiled(x.module)),
    "_batches_that_stepped": (lambda x: x.run.fit_loop.epoch_loop, lambda x: names.batches_trained(x.run)),
    "_train_time_interval": (lambda x: x.saver, lambda x: names.saving_interval(x.saver)),
    "_after_closure": (lambda x: x.run.precision_plugin, lambda x: names.before_optimizer_step(x.run, "optimizer")),
    "_ddp_kwargs": (lambda x: x.ddp, lambda x: names.ddp_options(x.ddp)),
    "_accelerator_connector": (lambda x: x.run, lambda x: names.requeueing_signals(x.run)),
    "_save_distributed_checkpoint": (lambda x: x.sharded, lambda x: names.writes_folders(x.sharded)),
    "_precision_plugin": (
        lambda x: x.run.strategy,
        lambda x: names.replace_precision(x.run, Precision()),
    ),
    "_signal_connector": (lambda x: x.run, sigterm),
    "_sigterm_notifier_fn": (lambda x: x.run._signal_connector, sigterm),
    "_broadcast_sigterm_tensor": (lambda x: x.run.fit_loop.epoch_loop, sigterm),
    "_parser": (lambda x: x.cli, lambda x: names.subcommand_parser(x.cli, None)),
}
"""By private name: who has it, and a call that needs it."""

SAVED = {"_class_path", "_instantiator"}
"""Keys of saved hyperparameters."""


def test_every_private_name_of_lightning_has_a_case(found: dict[str, Finder]) -> None:
    assert found[HOME].uses == CASES.keys() | SAVED


@pytest.mark.parametrize("name", CASES)
def test_a_missing_name_is_named(name: str, lightning: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is really taken away, from the object or from the class that has it."""
    owner, call = CASES[name][0](lightning), CASES[name][1]
    call(lightning)
    for place in (owner, *type(owner).__mro__):
        if name in vars(place):
            monkeypatch.delattr(place, name)
    with pytest.raises(
        InputError, match=rf"^Lightning {re.escape(version('lightning'))} has no `{type(owner).__name__}\.{name}`"
    ):
        call(lightning)
    assert not hasattr(owner, name), "nothing was assigned"


def test_signals_that_slurm_sends_are_lightnings() -> None:
    """Those that put a job back into the queue; whoever switches that off is heard by us again."""
    signals = []
    for plugin in (SLURMEnvironment(), SLURMEnvironment(requeue_signal=signal.SIGUSR2), SLURMEnvironment(False)):
        run = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, plugins=[plugin])
        signals.append(names.requeueing_signals(run))
    assert signals == [{signal.SIGUSR1, signal.SIGTERM}, {signal.SIGUSR2, signal.SIGTERM}, set()]


def test_what_the_functions_say(lightning: SimpleNamespace) -> None:
    assert names.batches_trained(lightning.run) == 1
    assert names.saving_interval(lightning.saver) == timedelta(minutes=5)
    assert names.saving_interval(ModelCheckpoint()) is None
    assert names.ddp_options(lightning.ddp)["static_graph"] is True
    assert names.writes_folders(lightning.sharded) is False
    assert names.writes_folders(ModelParallelStrategy()) is True
    assert names.subcommand_parser(lightning.cli, None) is lightning.cli.parser
    assert names.is_compiled(lightning.module) is False


def test_a_module_has_a_trainer_or_none(lightning: SimpleNamespace) -> None:
    assert names.trainer_of(lightning.module) is lightning.run
    module = classifier()
    assert names.trainer_of(module) is None
    module.fabric = Fabric(accelerator="cpu", devices=1)
    assert names.trainer_of(module) is None


def test_an_update_is_counted(lightning: SimpleNamespace) -> None:
    before = lightning.run.global_step
    names.count_update(lightning.run)
    assert lightning.run.global_step == before + 1


def test_hooks_come_before_a_step(lightning: SimpleNamespace) -> None:
    lightning.hooks.seen.clear()
    names.before_optimizer_step(lightning.run, "optimizer")  # type: ignore[arg-type]
    assert lightning.hooks.seen == ["optimizer"]


def test_sigterm_is_ours_in_between(lightning: SimpleNamespace) -> None:
    calls: list[Any] = []
    connector, loop = lightning.run._signal_connector, lightning.run.fit_loop.epoch_loop
    names.replace_sigterm(lightning.run, lambda *signal: calls.append(signal), lambda: calls.append("batch"))
    connector._sigterm_notifier_fn(15, None)
    loop._broadcast_sigterm_tensor()
    assert calls == [(15, None), "batch"]
    names.restore_sigterm(lightning.run)
    assert connector._sigterm_notifier_fn.__func__ is type(connector)._sigterm_notifier_fn
    assert loop._broadcast_sigterm_tensor.__func__ is type(loop)._broadcast_sigterm_tensor


def test_lightning_saves_the_class_under_the_keys_that_are_read() -> None:
    saved = {node.value for node in ast.walk(tree_of("lightning.pytorch.cli")) if isinstance(node, ast.Constant)}
    assert saved >= SAVED
    found = names.class_and_arguments({"_class_path": "a.B", "_instantiator": "c", "width": 3})
    assert found == ("a.B", {"width": 3})
    assert names.class_and_arguments({"width": 3}) == (None, {"width": 3})


def test_no_object_is_left_among_saved_arguments() -> None:
    module = classifier(clip_norm=0.5)
    assert module.hparams_initial == module.hparams
    assert module.hparams["clip_norm"] == 0.5
    assert module.hparams["network"]["class_path"] == "ff_lightning.networks.mlp.MLP", "in plain words"
    assert module.hparams["optimizer"]["class_path"] == "torch.optim.Adam"
    assert json.loads(json.dumps(dict(module.hparams))) == dict(module.hparams), "plain values alone"
