r"""A campaign of faults against the command line and the ways by which a checkpoint comes in.

    python recipes/benchmarks/faults.py [--folder kept] [--only kills pairs spoils payloads fuzz] [--kills 24]
        [--pairs 4] [--flips 300] [--cuts 100] [--fuzz 2000] [--seed 0]

Kills are aimed at writes: a training is run in a process of its own, and killed with SIGKILL when it opens, links,
renames or removes its n-th file, or a little later; n goes over all of them. It is then resumed from the checkpoint
that is there, and compared bit by bit with one that was never stopped: weights, optimizers, schedules, loops, logged
values and tables. With two ranks, the first is killed so, and the other must end by itself. Flipped bits and cut files
come in by `read_checkpoint`, as folders of the hub, and as sharded folders; a flip is silent if anything is loaded that
differs. Payloads are pickles and class names that leave a file behind where somebody believes them, on every way in.
Fuzzed calls are those of `tests/attacks/fuzzing.py`. Progress goes to stderr; the last line is JSON. With `--folder`,
every part that is done is kept there, and the same command goes on after a stop. Parts of `--only` may run side by
side.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  # once here, and not in every copy of this process
import sklearn.datasets  # noqa: F401
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from recipe import be_quiet, provenance

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import ff_lightning as ff  # noqa: E402
from ff_lightning.cli import main as command_line  # noqa: E402
from ff_lightning.engine.folders import TABLE  # noqa: E402
from ff_lightning.engine.integrity import write_sums  # noqa: E402
from ff_lightning.engine.reading import read_checkpoint  # noqa: E402
from ff_lightning.pretrained import save_pretrained  # noqa: E402
from ff_lightning.report.run import read_run  # noqa: E402
from tests.attacks import fuzzing  # noqa: E402
from tests.attacks.spoiling import RECIPES, WAYS, archive, flipped, pickles, same, served, spoilt  # noqa: E402
from tests.training import classifier, loader, trainer  # noqa: E402

EPOCHS = 3
WRITES = ("open", "os.link", "os.rename", "os.remove")
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch", "ff_lightning")
CLASSES = ("os.system", "subprocess.Popen", "builtins.exec", "runpy.run_path", "torch.hub.load", "webbrowser.open")
PLACES = ("network", "readout", "_class_path")


PARTS = ("kills", "pairs", "spoils", "payloads", "fuzz")
PATIENCE = 60
"""Seconds within which a rank must end by itself once the other is gone."""


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Kept:
    """What is done already, a line a part; with a folder, a campaign that was stopped goes on."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.file = folder, folder / "done.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        if lines and lines[0] != settings:
            raise SystemExit(f"{self.file} is of another campaign: {lines[0]}, not {settings}.")
        if not lines:
            self._write(settings)
        self.done = {line["part"]: line for line in lines[1:]}

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def part(self, name: str, run: Callable[[Path], Counter[str]]) -> None:
        """Run a part in a folder of its own, unless it is done."""
        if name in self.done:
            return
        since, cpu = time.monotonic(), cpu_seconds()
        place = self.folder / name.replace(" ", "_")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        found = run(place)
        shutil.rmtree(place)
        line = {"part": name, "found": dict(found), "seconds": time.monotonic() - since}
        self.done[name] = line = line | {"cpu": cpu_seconds() - cpu}
        self._write(line)
        told(f"{name}: {dict(found)}, {line['seconds']:.1f} s, {line['cpu']:.1f} s of CPU")

    def total(self, *names: str) -> Counter[str]:
        """Sums over all parts whose name begins with one of these."""
        total: Counter[str] = Counter()
        for name, line in self.done.items():
            if name.startswith(names):
                total.update(line["found"])
        return total

    def seconds(self, what: str) -> float:
        return sum(line[what] for line in self.done.values())


def cpu_seconds() -> float:
    """Of this process, and of all children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


# Kills -----------------------------------------------------------------------------------------------------------


def forked(run: Callable[[], int], said: Path | None = None) -> int:
    """Run something in a copy of this process, and keep what it says if asked to; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(said or os.devnull, "w") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                status = run()
            except BaseException:
                traceback.print_exc()
                file.flush()
    except BaseException as error:
        told(f"{type(error).__name__}: {error}")
    os._exit(status)


def training(folder: Path, *more: str) -> int:
    words = ["fit", *RECIPES["classifier"], "--trainer.default_root_dir", str(folder)]
    words += ["--trainer.max_epochs", str(EPOCHS), "--trainer.accelerator", "cpu", *more]
    if (folder / "last.ckpt").exists():
        words += ["--ckpt_path", str(folder / "last.ckpt")]
    return command_line(words)


def aimed(folder: Path, at: int, delay: float, count: list[int]) -> None:
    """Kill this process at its ``at``-th write into a folder; with ``at`` below 0 only count them."""
    place = str(folder)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITES or not any(
            isinstance(one, str | Path) and str(one).startswith(place) for one in arguments
        ):
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        count[0] += 1
        if count[0] == at:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def ranked(folder: Path, rank: int, ranks: int, port: int, at: int, delay: float) -> Callable[[], int]:
    """A rank of a training, to be run in a process of its own."""

    def run() -> int:
        more: list[str] = []
        if ranks > 1:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks), NODE_RANK="0")
            os.environ["LOCAL_RANK"] = str(rank)
            more = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", "0:00:20"]
            more += ["--trainer.devices", str(ranks)]
        count = [0]
        if rank == 0:
            aimed(folder, at, delay, count)
        status = training(folder, *more)
        if rank == 0 and at < 0:
            (folder / "writes").write_text(str(count[0]))
        return status

    return run


def run_ranks(folder: Path, ranks: int, at: int = -1, delay: float = 0.0) -> list[int]:
    """Run all ranks to the end, or until the first is killed and the others notice; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [folder.parent / f"{folder.name}.said_{rank}" for rank in range(ranks)]
    children = [forked(ranked(folder, rank, ranks, port, at, delay), said[rank]) for rank in range(ranks)]
    statuses = [os.waitpid(children[0], 0)[1]]
    for child in children[1:]:
        since = time.monotonic()
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - since < PATIENCE:
            time.sleep(0.05)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
        statuses.append(ended[1])
    return statuses


def state(folder: Path) -> dict[str, Any]:
    """What a run has come to: its last checkpoint, every row of its metrics, and its tables."""
    content = read_checkpoint(folder / "last.ckpt")
    run = read_run(folder)
    curves = {name: curve for name, curve in sorted(run.curves.items()) if "seconds" not in name}
    return {name: content[name] for name in STATE} | {"curves": curves, "tables": run.record.get("tables")}


def whole(ranks: int) -> Callable[[Path], Counter[str]]:
    """A training that is never stopped; what it comes to is kept beside its folder."""

    def run(place: Path) -> Counter[str]:
        if any(run_ranks(place, ranks)):
            raise SystemExit(f"The training on {ranks} ranks does not run.")
        torch.save(state(place), place.parent / f"whole_{ranks}.pt")
        return Counter(writes=int((place / "writes").read_text()))

    return run


def killed(kept: Kept, ranks: int, at: int, delay: float) -> Callable[[Path], Counter[str]]:
    """Kill, resume, compare."""

    def run(folder: Path) -> Counter[str]:
        expected = torch.load(kept.folder / f"whole_{ranks}.pt", weights_only=True)
        statuses = run_ranks(folder, ranks, at, delay)
        was = statuses[0] == signal.SIGKILL  # a late one may come too late
        said = "".join(path.read_text() for path in folder.parent.glob(f"{folder.name}.said_*"))
        if "Traceback" in said:
            told(said)
        again = run_ranks(folder, ranks)
        now = {} if any(again) else state(folder)
        equal = same(now, expected)
        if not equal:
            told(f"DIFFERENT in {[name for name in expected if not same(now.get(name), expected[name])]}, {again}")
        hung = sum(status == signal.SIGKILL for status in statuses[1:])
        return Counter(kills=int(was), bit_equal=int(was and equal), hung=hung, tracebacks=int("Traceback" in said))

    return run


def kills(kept: Kept, wanted: int, ranks: int, seed: int) -> None:
    """Kills aimed at writes, evenly over all of them."""
    kept.part(f"{ranks} ranks whole", whole(ranks))
    writes = kept.total(f"{ranks} ranks whole")["writes"]
    for index in range(wanted):
        chance = random.Random(f"{seed} {ranks} {index}")
        at, delay = 1 + (index * writes) // wanted, chance.choice([0.0, 0.0, chance.uniform(0, 0.005)])
        kept.part(f"{ranks} ranks killed at write {at} of {writes}", killed(kept, ranks, at, delay))
    for at in range(1, wanted + 1):  # in the place of kills that came after the end
        if kept.total(f"{ranks} ranks")["kills"] < wanted:
            kept.part(f"{ranks} ranks killed again at write {at} of {writes}", killed(kept, ranks, at, 0.0))


# Flips and cuts ------------------------------------------------------------------------------------------------------


def sharded(folder: Path) -> Path:
    """A sharded checkpoint of one rank, written in a process of its own."""

    def run() -> int:
        from lightning.pytorch.strategies import ModelParallelStrategy

        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
        one = trainer(folder, strategy=ModelParallelStrategy(1, 1), max_steps=1)
        one.fit(classifier(2), loader(40, 20))
        one.save_checkpoint(folder / "sharded.ckpt")
        return 0

    if os.waitpid(forked(run), 0)[1]:
        raise SystemExit("No sharded checkpoint was written.")
    return folder / "sharded.ckpt"


def outcome(load: Callable[[], Any], before: Any) -> str:
    """What became of a spoilt file: refused, unchanged, silent, or a traceback."""
    try:
        after = load()
    except ff.InputError as error:
        return "refused" if "\n" not in str(error) else "tracebacks"
    except Exception as error:
        told(f"TRACEBACK {type(error).__name__}: {error}")
        return "tracebacks"
    return "unchanged" if same(after, before) else "silent"


def spoils(run: Path, flips: int, cuts: int, seed: int) -> Callable[[Path], Counter[str]]:
    """Flip bits and cut files: half of the flips in a checkpoint, a sixth in its heads, the rest in folders."""

    def attempt(root: Path) -> Counter[str]:
        chance = random.Random(f"{seed} spoils")
        found: Counter[str] = Counter(flips=flips, truncations=cuts)
        found.update(flipped_files((run / "last.ckpt").read_bytes(), flips * 2 // 3, chance))
        found.update(flipped_folders(run, root, flips - flips * 2 // 3, chance))
        content = (run / "last.ckpt").read_bytes()
        for index in range(cuts):
            length = chance.randrange(len(content)) if index % 2 else len(content) - 1 - chance.randrange(3000)
            cut = content[:length]
            result = outcome(lambda cut=cut: read_checkpoint(io.BytesIO(cut)), None)  # type: ignore[misc]
            found["silent" if result == "unchanged" else result] += 1
        return found

    return attempt


def flipped_files(content: bytes, flips: int, chance: random.Random) -> Counter[str]:
    """Bits of a checkpoint; every fourth of them in what names its records."""
    before = read_checkpoint(io.BytesIO(content))
    start = content.index(b"PK\x01\x02")
    heads = [at for at in range(start) if content[at : at + 4] == b"PK\x03\x04"]
    found: Counter[str] = Counter()
    for index in range(flips):
        place = chance.randrange(len(content))
        if index % 4 == 0:
            place = chance.choice([chance.choice(heads) + chance.randrange(50), chance.randrange(start, len(content))])
        spoiled = flipped(content, 8 * place + chance.randrange(8))
        found[outcome(lambda spoiled=spoiled: read_checkpoint(io.BytesIO(spoiled)), before)] += 1  # type: ignore[misc]
    return found


def flipped_folders(run: Path, root: Path, flips: int, chance: random.Random) -> Counter[str]:
    """Bits of all files of a folder of the hub, and of a sharded one."""
    save_pretrained(run / "last.ckpt", root / "hub")
    folder = sharded(root)
    places: list[tuple[Path, Callable[[], Any]]] = [
        *(
            (root / "hub" / name, lambda: dict(ff.load(root / "hub").state_dict()))
            for name in ("config.json", "model.safetensors")
        ),
        *((path, lambda: read_checkpoint(folder)) for path in sorted(folder.iterdir())),
    ]
    values = [load() for _, load in places]
    found: Counter[str] = Counter()
    for index in range(flips):
        (path, load), value = places[index % len(places)], values[index % len(places)]
        content = path.read_bytes()
        path.write_bytes(flipped(content, chance.randrange(8 * len(content))))
        result = outcome(load, value)
        # Of a sharded folder the weights are read by its strategy: whatever is changed must be refused.
        found["silent" if result == "unchanged" and path.parent == folder else result] += 1
        path.write_bytes(content)
    return found


# Payloads ------------------------------------------------------------------------------------------------------------


def class_names(run: Path, sprung: Path, target: Path) -> dict[str, bytes]:
    """Checkpoints that are whole, and name what leaves a file behind where it is built."""
    found = {}
    arguments = {"command": f"touch {sprung}", "args": f"touch {sprung}", "file": str(sprung), "url": str(sprung)}
    for name in CLASSES:
        for place in PLACES:
            value: Any = name if place == "_class_path" else {"class_path": name, "init_args": arguments}
            spoilt(run / "last.ckpt", lambda c, p=place, v=value: c["hyper_parameters"].update({p: v}), target)
            found[f"{place} {name}"] = target.read_bytes()
    return found


READS_NAMES = ("load", "load_from_checkpoint", "export", "predict --folder", "generate")
"""Ways by which a class name that stands in the file is read."""
ADDRESSES = ("read_checkpoint", "load_from_checkpoint", "Trainer.test", "test")
"""Ways that are tried with addresses, too: they differ in what opens the file."""


def attempt(what: str, way: Callable[[], Any], sprung: Path, found: Counter[str]) -> None:
    """Load something by a way, and look whether what it holds was run."""
    found["payloads"] += 1
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            way()
        told(f"LOADED {what}")
        found["loaded"] += 1
    except ff.InputError:
        pass
    except BaseException as error:
        told(f"TRACEBACK {what}: {type(error).__name__}: {error}")
        found["tracebacks"] += 1
    found["tracebacks"] += "Traceback" in said.getvalue()
    if sprung.exists():
        told(f"EXECUTED {what}")
        found["executed"] += 1
        sprung.unlink()


def ways_of(name: str, reads_names: bool) -> Callable[[Path], Counter[str]]:
    """A payload on every way in; one without a pickle on those that read names out of the file."""

    def run(root: Path) -> Counter[str]:
        found: Counter[str] = Counter()
        sprung, path = root / "sprung", root / "served" / "x.ckpt"
        path.parent.mkdir()
        make = class_names(root.parent / "run", sprung, path) if reads_names else pickles(sprung)
        path.write_bytes(make[name])
        with served(path.parent) as address:
            for way in READS_NAMES if reads_names else WAYS:
                attempt(f"{name}, {way}", lambda way=way: WAYS[way](str(path), root), sprung, found)  # type: ignore[misc]
            for way in () if reads_names else ADDRESSES:
                for each in (f"{address}/x.ckpt", f"file://{path}"):
                    attempt(f"{name}, {way}", lambda way=way, each=each: WAYS[way](each, root), sprung, found)  # type: ignore[misc]
        return found

    return run


def sharded_ways(root: Path) -> Counter[str]:
    """Every pickle in every file of a sharded folder."""
    found: Counter[str] = Counter()
    sprung, folder = root / "sprung", sharded(root)
    for name, content in pickles(sprung).items():
        for file in ("meta.pt", TABLE, "__0_0.distcp"):
            copy = root / "copy.ckpt"
            shutil.copytree(folder, copy)
            (copy / file).write_bytes(content if file == TABLE else archive(content))
            write_sums(copy)
            attempt(f"{name}, sharded {file}", lambda copy=copy: resume_sharded(copy, root), sprung, found)  # type: ignore[misc]
            shutil.rmtree(copy)
    return found


def payloads(kept: Kept) -> None:
    """Every payload by every way in."""
    nowhere = Path("sprung")
    for name in pickles(nowhere):
        kept.part(f"payload {name}", ways_of(name, reads_names=False))
    for name in (f"{place} {name}" for name in CLASSES for place in PLACES):
        kept.part(f"payload {name}", ways_of(name, reads_names=True))
    kept.part("payload sharded", sharded_ways)


def resume_sharded(path: Path, root: Path) -> None:
    """Go on from a sharded folder, in this process: the group is kept for the next one."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    try:
        one = trainer(root, strategy=ModelParallelStrategy(1, 1), max_epochs=2)
        one.fit(classifier(2), loader(40, 20), ckpt_path=path)
    finally:
        for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
            os.environ.pop(name, None)


# Fuzzed calls ----------------------------------------------------------------------------------------------------


def fuzz(name: str, each: int, seed: int) -> Callable[[Path], Counter[str]]:
    """Calls of public functions of one kind."""
    found: Counter[str] = Counter()

    def calls(data: st.DataObject) -> None:
        call = data.draw(fuzzing.TARGETS[name]())
        found["fuzz_calls"] += 1
        try:
            found[fuzzing.run(call)] += 1
        except Exception as error:
            told(f"TRACEBACK {name}: {type(error).__name__}: {error}")
            found["tracebacks"] += 1

    def run(_: Path) -> Counter[str]:
        torch.set_flush_denormal(False)  # which the command line has switched on in this process
        left = each
        for part in range(100):  # hypothesis stops early where it has seen all there is
            if left <= 0:
                break
            before = found["fuzz_calls"]
            wrapped = given(st.data())(lambda data: calls(data))
            wrapped = settings(
                max_examples=left,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )(wrapped)
            seeded(seed + part)(wrapped)()
            left -= found["fuzz_calls"] - before
        return found

    return run


def trained(place: Path) -> Counter[str]:
    """The run whose checkpoint is spoilt, kept beside this part's folder."""
    if os.waitpid(forked(lambda: training(place)), 0)[1]:
        raise SystemExit("The training does not run.")
    shutil.rmtree(place.parent / "run", ignore_errors=True)
    shutil.copytree(place, place.parent / "run")
    return Counter()


def summary(kept: Kept) -> dict[str, Any]:
    """The numbers that count."""
    every = kept.total("")
    return {
        "kills": every["kills"],
        "kills_of_two_ranks": kept.total("2 ranks")["kills"],
        "bit_equal": every["bit_equal"],
        "hung": every["hung"],
        "truncations": every["truncations"],
        "flips": every["flips"],
        "silent": every["silent"],
        "payloads": every["payloads"],
        "executed": every["executed"],
        "loaded": every["loaded"],
        "fuzz_calls": every["fuzz_calls"],
        "refused_calls": kept.total("fuzz")["refused"],
        "tracebacks": every["tracebacks"],
        "seconds": round(kept.seconds("seconds")),
        "cpu_seconds": round(kept.seconds("cpu")),
    }


def campaign(kept: Kept, args: argparse.Namespace) -> None:
    """All parts that are asked for, and not done."""
    if "kills" in args.only:
        kills(kept, args.kills, 1, args.seed)
    if "pairs" in args.only:
        kills(kept, args.pairs, 2, args.seed)
    if {"spoils", "payloads"} & set(args.only):
        kept.part("trained", trained)
    if "spoils" in args.only:
        kept.part("spoils", spoils(kept.folder / "run", args.flips, args.cuts, args.seed))
    if "payloads" in args.only:
        payloads(kept)
    for name in fuzzing.TARGETS if "fuzz" in args.only else ():
        kept.part(f"fuzz {name}", fuzz(name, -(-args.fuzz // len(fuzzing.TARGETS)), args.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to keep what is done; a temporary one by default")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=24, help="of one rank")
    parser.add_argument("--pairs", type=int, default=4, help="kills of two ranks")
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--fuzz", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    be_quiet()
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    made = provenance()
    numbers = {name: value for name, value in vars(args).items() if name not in ("folder", "only")}
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = Kept((args.folder or Path(place)).resolve(), numbers | {"commit": made["commit"]})
        campaign(kept, args)
    print(json.dumps(summary(kept) | made))


if __name__ == "__main__":
    main()
