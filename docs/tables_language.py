"""Tables of language models."""

from __future__ import annotations

import re
from typing import Any

from tables_common import Runs, Table, fold, rows, spread


def beside_twins(name: str) -> dict[str, list[dict[str, Any]]]:
    """Runs, by command, each with what the twin of the same layers, text, length and seed reached."""
    everything = [run for group in rows(name) for run in group]
    twins = {(comparable(run), run["seed"]): run for run in everything if "backprop" in run}
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in everything:
        twin = twins[comparable(run), run["seed"]]
        best, one = twin["backprop"], twin["one_layer_backprop"]
        depth = {"gap": run["ff"] - best, "kept": 100 * (one - run["ff"]) / (one - best), "twin": best}
        command = re.sub(r" --(seed \d+|no-\S+|twin-\S+ \S+)", "", run["command"]) + rates_of(twin, run)
        groups.setdefault(command, []).append(run | depth)
    return groups


LANGUAGE = Table(
    {
        "arm, tier": lambda runs: f"{runs[0]['arm']}, {runs[0]['tier']}",
        "layers, in a block": lambda runs: f"{runs[0]['layers']}, {runs[0]['layers_per_block']}",
        "FF, by block": lambda runs: blocks_of(runs),
        "FF, last block": lambda runs: spread(runs, "ff", 4),
        "gap to twin": lambda runs: spread(runs, "gap", 4),
        "FF, mean of blocks": lambda runs: spread(runs, "ff_average", 4),
        "twin": lambda runs: spread(runs, "twin", 4),
        "gain of depth kept, %": lambda runs: spread(runs, "kept", 0),
    }
)


def language(name: str) -> str:
    """Language models on tiny Shakespeare."""
    named = (([run | {"command": command} for run in runs]) for command, runs in beside_twins(name).items())
    table = LANGUAGE.written((runs, runs) for runs in named)
    return f"{table}\n\n{floors_of([run for runs in rows(name) for run in runs])}"


def rates_of(twin: dict[str, Any], ours: dict[str, Any]) -> str:
    """Arguments that train the twin as it was, beside an FF network with rates of its own."""
    words = ""
    for name in ("muon-lr", "clip"):
        found = re.search(rf" --twin-{name} (\S+)", twin["command"]) or re.search(rf" --{name} (\S+)", twin["command"])
        own = re.search(rf" --{name} (\S+)", ours["command"])
        if found and own and found[1] != own[1]:
            words += f" --twin-{name} {found[1]}"
    return words


def comparable(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a network and its twin have in common."""
    text = re.search(r"--data (\S+)", run["command"])
    return text and text[1], run["tokens"], run["layers"]


def floors_of(runs: list[dict[str, Any]]) -> str:
    """A sentence with what needs no training of layers, from the first run that measured the most of it."""
    first = max((run for run in runs if "ngram" in run), key=lambda run: "frozen" in run)
    grams = ", ".join(f"{order}-gram {nats:.3f}" for order, nats in first["ngram"].items())
    frozen = f"; random layers under a trained readout {first['frozen']:.3f}" if "frozen" in first else ""
    return f"Floors: {grams}{frozen}."


NEGATIVES = Table(
    {
        "arm": lambda runs: runs[0]["arm"],
        "negatives": lambda runs: negatives_of(runs[0]),
        "FF, by block": lambda runs: blocks_of(runs),
        "FF, last block": lambda runs: spread(runs, "ff", 4),
        "CPU seconds": lambda runs: f"{sum(run['ff_seconds'] for run in runs) / len(runs):.0f}",
    }
)


def negatives_of(run: dict[str, Any]) -> str:
    """How many negatives a run has, or of what kind."""
    rollouts = "--rollouts" in run["command"]
    special = {"softmax": "all", "hinton": "rollouts" if rollouts else "two streams"}
    return str(special.get(run["arm"], f"{run['negatives']}{' and rollouts' * rollouts}"))


def negatives(name: str) -> str:
    """Language models that differ in their negatives, one change at a time."""
    return NEGATIVES.written((runs, runs) for runs in rows(name))


def blocks_of(runs: list[dict[str, Any]]) -> str:
    """Loss of every block, mean over runs."""
    return " ".join(
        f"{sum(values) / len(runs):.4f}" for values in zip(*(run["per_block"] for run in runs), strict=True)
    )


def setting(run: dict[str, Any]) -> str:
    """What a run shares with those that stand beside it: the text, the sizes and the steps."""
    words = re.findall(r"--(?:data|tokens|layers|width|context|batch|steps) \S+", run["command"])
    return " ".join(sorted(words))


def by_setting(name: str) -> list[list[dict[str, Any]]]:
    """Runs with the same text, sizes and steps together."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for runs in rows(name):
        settings.setdefault(setting(runs[0]), []).extend(runs)
    return list(settings.values())


def curve(name: str) -> str:
    """Tables of losses while networks learn, a column a run, a table for each text and size."""
    parts = []
    for runs in by_setting(name):
        columns, ends = {}, []
        for run in runs:
            rate = re.search(r"--muon-lr (\S+)", run["command"])
            special = (", reminded" if "--remind" in run["command"] else "") + (f", Muon {rate[1]}" if rate else "")
            special += f", seed {run['seed']}" if run["seed"] else ""
            label = f"{run['arm']}, {run['layers_per_block']} layers a block{special}"
            if "ff" in run:
                columns[label] = dict(run["curve"]["ff"])
                blocks = f"blocks {blocks_of([run])}{mean_of(run)}, {run['ff_seconds']:.0f} CPU seconds"
                ends.append(f"- {label}: {blocks}. {fold([run])}")
            if "backprop" in run.get("curve", {}):
                columns[f"twin{special}"] = dict(run["curve"]["backprop"])
            if "backprop" in run:
                one = f"; of one layer {run['one_layer_backprop']:.4f}" if "one_layer_backprop" in run else ""
                seconds = f"{run['backprop_seconds']:.0f} CPU seconds"
                ends.append(f"- twin{special}: {run['backprop']:.4f}, {seconds}{one}. {fold([run])}")
        points = sorted({tokens for column in columns.values() for tokens in column})
        lines = [f"| million tokens | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for tokens in points:
            cells = (f"{column[tokens]:.4f}" if tokens in column else "" for column in columns.values())
            lines.append(f"| {tokens / 1e6:.2f} | {' | '.join(cells)} |")
        floor = floors_of(runs) if any("ngram" in run for run in runs) else ""
        if alone := [run for run in runs if "one_layer_backprop" in run and "backprop" not in run]:
            ends.append(f"- twin of one layer: {alone[0]['one_layer_backprop']:.4f}. {fold(alone[:1])}")
        parts += [f"`{setting(runs[0])}`:", "\n".join(lines), "On the whole validation text:", "\n".join(ends), floor]
    return "\n\n".join(filter(None, parts))


def mean_of(run: dict[str, Any]) -> str:
    """What the mean of several blocks predicts, as far as a run has it."""
    if "average_up_to_block" in run:
        return f"; mean of the lowest 1, 2, …: {' '.join(f'{nats:.4f}' for nats in run['average_up_to_block'])}"
    return f"; mean of all {run['ff_average']:.4f}" if "ff_average" in run else ""


TRIES = Table(
    {
        "arm": lambda run: run["arm"] if "ff" in run else "backprop",
        "changed": lambda run: " ".join(re.findall(r"--(?:muon-lr|clip|lr|warmup) \S+", run["command"])).replace(
            "--", ""
        ),
        "FF, by block": lambda run: blocks_of([run]) if "ff" in run else "",
        "twin": lambda run: f"{run['backprop']:.4f}" if "backprop" in run else "",
        "CPU seconds": lambda run: f"{run['ff_seconds' if 'ff' in run else 'backprop_seconds']:.0f}",
    }
)


def tries(name: str) -> str:
    """Short trainings, one network a row, that were made to choose a setting."""
    return TRIES.written((run, [run]) for (run,) in rows(name))


AESOP = Table(
    {
        "arm": lambda runs: runs[0]["arm"],
        "negatives": lambda runs: (
            "" if runs[0]["arm"] in ("frozen", "twin") else runs[0]["negatives"].replace("_", "-")
        ),
        "accuracy, learned strings, %": lambda runs: of_split(runs, "train", "accuracy"),
        "accuracy, held out, %": lambda runs: of_split(runs, "held_out", "accuracy"),
        "nats, learned": lambda runs: of_split(runs, "train", "nats"),
        "nats, held out": lambda runs: of_split(runs, "held_out", "nats"),
        "epochs": lambda runs: runs[0]["epochs"],
    }
)


def of_split(runs: Runs, split: str, key: str) -> str:
    """A measure on learned or held-out strings."""
    scale, digits = (100, 1) if key == "accuracy" else (1, 3)
    return spread([{"value": scale * run[split][key]} for run in runs], "value", digits)


def aesop(name: str) -> str:
    """Hinton's experiment."""
    return AESOP.written((runs, runs) for runs in rows(name))
