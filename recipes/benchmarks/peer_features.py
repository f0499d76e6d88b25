"""What public Forward-Forward repositories can do beside training: their own code, tried on small networks.

    python recipes/benchmarks/peer_features.py fflib --repos DIR

Of `peers.py --repos`, in an interpreter with torchvision. Only repositories that write a checkpoint or have a Trainer
are here: `fflib`, `cwcomp` and `trifecta`. The last line is JSON: for every question `true`, or what went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peer_adapters import PEERS, without_device_and_processes
from torch.utils.data import DataLoader, TensorDataset


def tried(run: Callable[[], bool]) -> bool | str:
    """Whether something works, or the error that it ends in."""
    try:
        return run()
    except Exception as error:  # whatever a peer raises is the answer
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"


def loads(file: Path | str) -> bool:
    torch.load(file, weights_only=True)
    return True


def fflib() -> dict[str, Callable[[], bool]]:
    from fflib.nn.ff_linear import FFLinear
    from fflib.nn.ff_net import FFNet
    from fflib.probes.one_hot import TryAllClasses
    from fflib.utils.ff_suite import FFSuite

    device, x = torch.device("cpu"), torch.rand(16, 30)
    net = FFNet([FFLinear(30, 20, loss_threshold=2, lr=0.02, device=device)], device)
    suite = FFSuite(net, TryAllClasses(lambda x, y: net(torch.cat((x, y), 1)), output_classes=10), None, device)
    file = suite.save("fflib.pt", append_hash=False)

    def goes_on() -> bool:
        """Its file brings weights and optimizer back: one more update is the same."""
        ends = []
        for one in (net, FFSuite(net, suite.probe, None, device).load(file)):
            one.layers[0].run_train(x, x.flip(0))
            ends.append(one.layers[0].weight.detach().clone())
        return torch.equal(*ends)

    def under_autocast() -> bool:
        with torch.autocast("cpu", torch.bfloat16):
            net.layers[0].run_train(x, x.flip(0))
        return bool(torch.isfinite(net.layers[0].weight).all())

    return {"resume": goes_on, "weights_only": lambda: loads(file), "bf16": under_autocast}


def cwcomp() -> dict[str, Callable[[], bool]]:
    import Models
    import utils

    model = Models.CW_Comp([20, 20], 16, CFSE=True, sf_pred=True, dataset="MNIST", loss_="CwC_CE")
    Path("weights/MNIST").mkdir(parents=True)
    utils.save_state(model, "tried", "MNIST", 0)

    def own() -> bool:
        utils.load_model(model, "tried", "MNIST", 0)
        return True

    return {"resume": own, "weights_only": lambda: loads("weights/MNIST/tried0.pth")}


def trifecta() -> dict[str, Callable[[], bool]]:
    import lightning as L
    import main

    data = TensorDataset(torch.rand(24, 1, 28, 28), torch.arange(24) % 10)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}

    def fitted(precision: str, **flags: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = main.Model(main.Config(model="small", dataset="mnist", test=True, batch_size=8))
        trainer = L.Trainer(accelerator="cpu", max_epochs=1, precision=precision, **quiet | flags)
        trainer.fit(model, DataLoader(data, batch_size=8))
        return model, trainer

    def counts() -> bool:
        return bool(fitted("32-true")[1].global_step == 3)

    def finite() -> bool:
        return all(bool(torch.isfinite(p).all()) for p in fitted("bf16-mixed")[0].parameters())

    def writes() -> bool:
        fitted("32-true", callbacks=[L.pytorch.callbacks.ModelCheckpoint(dirpath="kept", every_n_train_steps=1)])
        return any(Path("kept").glob("*.ckpt"))

    def safe() -> bool:
        fitted("32-true")[1].save_checkpoint("whole.ckpt")
        return loads("whole.ckpt")

    return {"counts_its_steps": counts, "checkpoint_callback": writes, "weights_only": safe, "bf16": finite}


TRIED = {"fflib": fflib, "cwcomp": cwcomp, "trifecta": trifecta}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TRIED))
    parser.add_argument("--repos", type=Path, required=True)
    args = parser.parse_args()
    sys.path[0] = str((args.repos / args.name / PEERS[args.name].folder).resolve())
    without_device_and_processes()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = {question: tried(run) for question, run in TRIED[args.name]().items()}
    sys.stdout.write("\n" + json.dumps({"name": args.name, "commit": PEERS[args.name].commit} | found) + "\n")


if __name__ == "__main__":
    main()
