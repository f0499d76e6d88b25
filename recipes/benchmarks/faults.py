r"""A campaign of faults against the command line and the ways by which a checkpoint comes in.

    python recipes/benchmarks/faults.py [--kills 24] [--pairs 4] [--flips 300] [--cuts 100] [--fuzz 2000] [--seed 0]

Kills are aimed at writes: a training is run in a process of its own, and killed with SIGKILL when it opens, links,
renames or removes its n-th file, or a little later; n goes over all of them. It is then resumed from the checkpoint
that is there, and compared bit by bit with one that was never stopped: weights, optimizers, schedules, loops. With two
ranks, the first is killed so, and the other then. Flipped bits and cut files come in by `read_checkpoint`, as folders
of the hub, and as sharded folders; a flip is silent if anything is loaded that differs. Payloads are pickles and class
names that leave a file behind where somebody believes them, on every way in. Fuzzed calls are those of
`tests/attacks/fuzzing.py`. Progress goes to stderr; the last line is JSON.
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
from tests.attacks import fuzzing  # noqa: E402
from tests.attacks.spoiling import RECIPES, WAYS, archive, flipped, pickles, same, served, spoilt  # noqa: E402
from tests.training import classifier, loader, trainer  # noqa: E402

EPOCHS = 3
WRITES = ("open", "os.link", "os.rename", "os.remove")
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch", "ff_lightning")
CLASSES = ("os.system", "subprocess.Popen", "builtins.exec", "runpy.run_path", "torch.hub.load", "webbrowser.open")


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Kills -----------------------------------------------------------------------------------------------------------


def forked(run: Callable[[], int]) -> int:
    """Run something in a copy of this process; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            status = run()
    except BaseException:
        traceback.print_exc()
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
            more = ["--trainer.strategy", "ddp", "--trainer.devices", str(ranks)]
        count = [0]
        if rank == 0:
            aimed(folder, at, delay, count)
        status = training(folder, *more)
        if rank == 0 and at < 0:
            (folder / "writes").write_text(str(count[0]))
        return status

    return run


def run_ranks(folder: Path, ranks: int, at: int = -1, delay: float = 0.0) -> list[int]:
    """Run all ranks to the end, or until the first is killed and with it the others; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [forked(ranked(folder, rank, ranks, port, at, delay)) for rank in range(ranks)]
    statuses = [os.waitpid(children[0], 0)[1]]
    for child in children[1:]:
        if statuses[0]:
            os.kill(child, signal.SIGKILL)
        statuses.append(os.waitpid(child, 0)[1])
    return statuses


def state(folder: Path) -> dict[str, Any]:
    content = read_checkpoint(folder / "last.ckpt")
    return {name: content[name] for name in STATE}


def kills(root: Path, wanted: int, ranks: int, chance: random.Random) -> Counter[str]:
    """Kill, resume, compare."""
    found: Counter[str] = Counter()
    whole = root / f"{ranks} whole"
    if any(run_ranks(whole, ranks)):
        raise SystemExit(f"The training on {ranks} ranks does not run.")
    expected, writes = state(whole), int((whole / "writes").read_text())
    for index in range(wanted):
        folder = root / f"{ranks} killed {index}"
        at = 1 + (index * writes) // wanted
        delay = chance.choice([0.0, 0.0, chance.uniform(0, 0.01)])
        statuses = run_ranks(folder, ranks, at, delay)
        found["kills"] += statuses[0] == signal.SIGKILL
        left = read_checkpoint(folder / "last.ckpt")["global_step"] if (folder / "last.ckpt").exists() else 0
        again = run_ranks(folder, ranks)
        equal = not any(again) and same(state(folder), expected)
        found["bit_equal"] += equal and statuses[0] == signal.SIGKILL
        told(f"{ranks} ranks, killed at write {at} of {writes}, resumed at {left}: {'equal' if equal else 'DIFFERENT'}")
        shutil.rmtree(folder)
    return found


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


def spoils(run: Path, root: Path, flips: int, cuts: int, chance: random.Random) -> tuple[Counter[str], Counter[str]]:
    """Flip bits and cut files: half of the flips in a checkpoint, a sixth in its heads, the rest in folders."""
    content = (run / "last.ckpt").read_bytes()
    before = read_checkpoint(io.BytesIO(content))
    start = content.index(b"PK\x01\x02")
    heads = [at for at in range(start) if content[at : at + 4] == b"PK\x03\x04"]
    flipping: Counter[str] = Counter()
    for index in range(flips * 2 // 3):
        place = chance.randrange(len(content))
        if index % 4 == 0:
            place = chance.choice([chance.choice(heads) + chance.randrange(50), chance.randrange(start, len(content))])
        spoiled = flipped(content, 8 * place + chance.randrange(8))
        flipping[outcome(lambda spoiled=spoiled: read_checkpoint(io.BytesIO(spoiled)), before)] += 1  # type: ignore[misc]
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
    for index in range(flips - flips * 2 // 3):
        (path, load), value = places[index % len(places)], values[index % len(places)]
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, chance.randrange(8 * len(whole))))
        result = outcome(load, value)
        # Of a sharded folder the weights are read by its strategy: whatever is changed must be refused.
        flipping["silent" if result == "unchanged" and path.parent == folder else result] += 1
        path.write_bytes(whole)
    cutting: Counter[str] = Counter()
    for index in range(cuts):
        length = chance.randrange(len(content)) if index % 2 else len(content) - 1 - chance.randrange(3000)
        cutting[outcome(lambda length=length: read_checkpoint(io.BytesIO(content[:length])), None)] += 1  # type: ignore[misc]
    told(f"flips: {dict(flipping)}; cuts: {dict(cutting)}")
    return flipping, cutting


# Payloads ------------------------------------------------------------------------------------------------------------


def class_names(run: Path, sprung: Path, target: Path) -> dict[str, bytes]:
    """Checkpoints that are whole, and name what leaves a file behind where it is built."""
    found = {}
    arguments = {"command": f"touch {sprung}", "args": f"touch {sprung}", "file": str(sprung), "url": str(sprung)}
    for name in CLASSES:
        for place in ("network", "readout", "_class_path"):
            value: Any = name if place == "_class_path" else {"class_path": name, "init_args": arguments}
            spoilt(run / "last.ckpt", lambda c, p=place, v=value: c["hyper_parameters"].update({p: v}), target)
            found[f"{place} {name}"] = target.read_bytes()
    return found


def payloads(run: Path, root: Path) -> Counter[str]:
    """Every payload by every way in; a way that reads no class name out of the file is given pickles alone."""
    found: Counter[str] = Counter()
    sprung, path = root / "sprung", root / "served" / "x.ckpt"
    path.parent.mkdir()
    named = class_names(run, sprung, path)
    reads_names = ("load", "load_from_checkpoint", "export", "predict --folder", "generate")

    def attempt(what: str, way: Callable[[], Any]) -> None:
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

    with served(path.parent) as address:
        for name, content in pickles(sprung).items():
            path.write_bytes(content)
            for way, load in WAYS.items():
                attempt(f"{name}, {way}", lambda load=load: load(str(path), root))
            for way in ("read_checkpoint", "load_from_checkpoint", "Trainer.test", "test"):
                attempt(f"{name}, {way}, http", lambda way=way: WAYS[way](f"{address}/x.ckpt", root))
                attempt(f"{name}, {way}, file", lambda way=way: WAYS[way](f"file://{path}", root))
        for name, content in named.items():
            path.write_bytes(content)
            for way in reads_names:
                attempt(f"{name}, {way}", lambda way=way: WAYS[way](str(path), root))
    for name, content in pickles(sprung).items():
        for file in ("meta.pt", TABLE, "__0_0.distcp"):
            copy = root / "copy.ckpt"
            shutil.copytree(root / "sharded.ckpt", copy)
            (copy / file).write_bytes(content if file == TABLE else archive(content))
            write_sums(copy)
            attempt(f"{name}, sharded {file}", lambda copy=copy: resume_sharded(copy, root))
            shutil.rmtree(copy)
    told(f"payloads: {dict(found)}")
    return found


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


def fuzz(wanted: int, seed: int) -> Counter[str]:
    """Calls of public functions, evenly over the targets."""
    found: Counter[str] = Counter()
    torch.set_flush_denormal(False)  # which the command line has switched on in this process
    for name, target in fuzzing.TARGETS.items():
        each = -(-wanted // len(fuzzing.TARGETS))

        def calls(data: st.DataObject, target: Any = target, name: str = name) -> None:
            call = data.draw(target())
            found["fuzz_calls"] += 1
            try:
                found[fuzzing.run(call)] += 1
            except Exception as error:
                told(f"TRACEBACK {name}: {type(error).__name__}: {error}")
                found["tracebacks"] += 1

        for part in range(100):  # hypothesis stops early where it has seen all there is
            before = found["fuzz_calls"]
            wrapped = given(st.data())(lambda data: calls(data))
            wrapped = settings(
                max_examples=each,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )(wrapped)
            seeded(seed + part)(wrapped)()
            each -= found["fuzz_calls"] - before
            if each <= 0:
                break
    told(f"fuzz: {dict(found)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    since = time.monotonic()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(place)
        one = kills(root, args.kills, 1, chance) if args.kills else Counter()
        two = kills(root, args.pairs, 2, chance) if args.pairs else Counter()
        run = root / "run"
        if os.waitpid(forked(lambda: training(run)), 0)[1]:
            raise SystemExit("The training does not run.")
        flipping, cutting = spoils(run, root, args.flips, args.cuts, chance)
        sprung = payloads(run, root)
    calls = fuzz(args.fuzz, args.seed) if args.fuzz else Counter()
    result = {
        "kills": one["kills"] + two["kills"],
        "kills_of_two_ranks": two["kills"],
        "bit_equal": one["bit_equal"] + two["bit_equal"],
        "truncations": cutting.total(),
        "flips": flipping.total(),
        "silent": flipping["silent"] + cutting["silent"] + cutting["unchanged"],
        "payloads": sprung["payloads"],
        "executed": sprung["executed"],
        "loaded": sprung["loaded"],
        "fuzz_calls": calls["fuzz_calls"],
        "refused_calls": calls["refused"],
        "tracebacks": flipping["tracebacks"] + cutting["tracebacks"] + sprung["tracebacks"] + calls["tracebacks"],
        "seconds": round(time.monotonic() - since),
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
