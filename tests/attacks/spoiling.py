"""Ways to spoil a checkpoint, and ways to load one: every test pairs some of them."""

from __future__ import annotations

import http.server
import io
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.data import ImageDataModule
from ff_lightning.engine.reading import read_checkpoint
from tests.training import trainer

ROOT = Path(__file__).parents[2]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def _recipe(name: str, *few: str) -> list[str]:
    configs = [word for each in (name, "with/smoke") for word in ("--config", str(ROOT / f"recipes/{each}.yaml"))]
    return [*configs, *QUIET, *few]


RECIPES = {
    "classifier": _recipe("digits_mlp", "--model.network.widths", "[32, 32]"),
    "language": _recipe("pydoc_gpt", "--model.network.width", "32", "--data.context", "16"),
}


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Global:
    """Unpickles to whatever a name stands for, called with a command that leaves a file behind."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self) -> bytes:
        return b"".join(
            [
                b"\x80\x02c" + f"{self.module}\n{self.name}\n".encode(),
                b"(" + b"".join(pickle.dumps(each, 2)[2:-1] for each in self.arguments) + b"tR.",
            ]
        )


def pickles(sprung: Path) -> dict[str, bytes]:
    """Files that leave ``sprung`` behind where they are unpickled by one that believes them."""
    whole, weights, legacy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Trap(sprung), whole)
    torch.save({"state_dict": {"a": Trap(sprung)}, "pytorch-lightning_version": "2.6.0", "ff_lightning": {}}, weights)
    torch.save({"state_dict": Trap(sprung)}, legacy, _use_new_zipfile_serialization=False)
    command = f"touch {sprung}"
    bare = {
        "os.system": Global("os", "system", command),
        "posix.system": Global("posix", "system", command),
        "builtins.exec": Global("builtins", "exec", f"open({str(sprung)!r}, 'w').close()"),
        "builtins.eval": Global("builtins", "eval", f"open({str(sprung)!r}, 'w').close()"),
        "subprocess.getoutput": Global("subprocess", "getoutput", command),
        "runpy.run_path": Global("runpy", "run_path", str(sprung)),
        "torch.hub.load": Global("torch.hub", "load", str(sprung.parent), "model"),
        "pathlib.Path.touch": Global("pathlib", "Path.touch", str(sprung)),
    }
    found = {f"pickle {name}": each.pickled() for name, each in bare.items()}
    found |= {f"archive {name}": archive(each.pickled()) for name, each in bare.items()}
    return found | {
        "archive of a trap": whole.getvalue(),
        "archive of weights": weights.getvalue(),
        "legacy": legacy.getvalue(),
        "pickle of a trap": pickle.dumps(Trap(sprung)),
    }


def archive(pickled: bytes) -> bytes:
    """A file as torch writes it, checksums and all, around any pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", data)
        for record in file.filelist:
            record.external_attr = 0  # as torch's: else these marks alone would have it refused
    return content.getvalue()


def spoilt(path: Path, change: Callable[[dict[str, Any]], Any], target: Path) -> Path:
    """A checkpoint in which something was changed, and which is whole otherwise."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


def flipped(content: bytes, bit: int) -> bytes:
    """Bytes with one bit turned over."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints hold the same names, types, shapes and values, bit by bit."""
    if isinstance(a, torch.Tensor):
        alike = isinstance(b, torch.Tensor) and (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        return alike and bool(
            torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on this machine with the files of a folder; its address."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _by_command(*words: str) -> Callable[[str, Path], None]:
    """A subcommand as a way in; its one line becomes the error that it stands for."""

    def run(path: str, folder: Path) -> None:
        own = [word.format(folder=folder) for word in words]
        status = main([*own, "--ckpt_path", path])
        if status != 0:
            raise ff.InputError(f"exit status {status}")

    return run


def _by_trainer(method: str) -> Callable[[str, Path], None]:
    def run(path: str, folder: Path) -> None:
        module = ff.FFClassifier(ff.networks.MLP(64, [32, 32], label_scale=5.0, overlay=False))
        data = ImageDataModule("digits", batch_size=100, limit=400)
        getattr(trainer(folder, max_epochs=2, limit_train_batches=2), method)(module, data, ckpt_path=path)

    return run


_RUN = [*RECIPES["classifier"], "--trainer.default_root_dir", "{folder}/run"]
WAYS: dict[str, Callable[[str, Path], Any]] = {
    "read_checkpoint": lambda path, _: read_checkpoint(path),
    "load": lambda path, _: ff.load(path),
    "load_from_checkpoint": lambda path, _: ff.FFClassifier.load_from_checkpoint(path),
    "Trainer.fit": _by_trainer("fit"),
    "Trainer.test": _by_trainer("test"),
    "Trainer.validate": _by_trainer("validate"),
    "Trainer.predict": _by_trainer("predict"),
    "fit": _by_command("fit", *_RUN),
    "test": _by_command("test", *_RUN),
    "validate": _by_command("validate", *_RUN),
    "predict": _by_command("predict", *_RUN),
    "export": _by_command("export", "--output", "{folder}/a.pt2"),
    "predict --folder": _by_command("predict", "--folder", "{folder}", "--output", "{folder}/a.csv"),
    "generate": _by_command("generate", "--max_new_tokens", "2"),
}
"""Every way by which a checkpoint comes in: takes its path or address, and a folder to work in."""
