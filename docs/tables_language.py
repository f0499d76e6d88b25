"""Tables of language models."""

from __future__ import annotations

import re
from typing import Any

from tables_common import means, origin, rows, seeds_of, spread, training_command


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


def language(name: str) -> str:
    """Table of language models."""
    lines = [
        "| arm, tier | layers, in a block | FF, by block | FF, last block | gap to twin | FF, mean of blocks | twin | "
        "gain of depth kept, % | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for command, runs in beside_twins(name).items():
        first = runs[0]
        cells = (("ff", 4), ("gap", 4), ("ff_average", 4), ("twin", 4), ("kept", 0))
        values = " | ".join(spread(runs, key, digits) for key, digits in cells)
        lines.append(
            f"| {first['arm']}, {first['tier']} | {first['layers']}, {first['layers_per_block']} | {blocks_of(runs)} | "
            f"{values} | {seeds_of(runs)} | `{command}` |"
        )
    return "\n".join([*lines, "", floors_of([run for runs in rows(name) for run in runs]), "", origin(name)])


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


def negatives(name: str) -> str:
    """Table of language models that differ in their negatives, one change at a time."""
    lines = [
        "| arm | negatives | FF, by block | FF, last block | CPU seconds | seeds | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        special = {"softmax": "all", "hinton": "rollouts" if "--rollouts" in first["command"] else "two streams"}
        more = " and rollouts" if "--rollouts" in first["command"] else ""
        count = special.get(first["arm"], f"{first['negatives']}{more}")
        seconds = sum(run["ff_seconds"] for run in runs) / len(runs)
        lines.append(
            f"| {first['arm']} | {count} | {blocks_of(runs)} | {spread(runs, 'ff', 4)} | {seconds:.0f} | "
            f"{seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


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
                ends.append(f"- {label}: {blocks}. `{run['command']}`")
            if "backprop" in run.get("curve", {}):
                columns[f"twin{special}"] = dict(run["curve"]["backprop"])
            if "backprop" in run:
                one = f"; of one layer {run['one_layer_backprop']:.4f}" if "one_layer_backprop" in run else ""
                seconds = f"{run['backprop_seconds']:.0f} CPU seconds"
                ends.append(f"- twin{special}: {run['backprop']:.4f}, {seconds}{one}. `{run['command']}`")
        points = sorted({tokens for column in columns.values() for tokens in column})
        lines = [f"| million tokens | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for tokens in points:
            cells = (f"{column[tokens]:.4f}" if tokens in column else "" for column in columns.values())
            lines.append(f"| {tokens / 1e6:.2f} | {' | '.join(cells)} |")
        floor = floors_of(runs) if any("ngram" in run for run in runs) else ""
        if alone := [run for run in runs if "one_layer_backprop" in run and "backprop" not in run]:
            ends.append(f"- twin of one layer: {alone[0]['one_layer_backprop']:.4f}. `{alone[0]['command']}`")
        parts += [f"`{setting(runs[0])}`:", "\n".join(lines), "On the whole validation text:", "\n".join(ends), floor]
    return "\n\n".join([*filter(None, parts), origin(name)])


def mean_of(run: dict[str, Any]) -> str:
    """What the mean of several blocks predicts, as far as a run has it."""
    if "average_up_to_block" in run:
        return f"; mean of the lowest 1, 2, …: {' '.join(f'{nats:.4f}' for nats in run['average_up_to_block'])}"
    return f"; mean of all {run['ff_average']:.4f}" if "ff_average" in run else ""


def tries(name: str) -> str:
    """Table of short trainings, one network a row, that were made to choose a setting."""
    lines = ["| arm | FF, by block | twin | CPU seconds | command |", "|---|---|---|---|---|"]
    for (run,) in rows(name):
        ours = blocks_of([run]) if "ff" in run else ""
        twin = f"{run['backprop']:.4f}" if "backprop" in run else ""
        seconds = run["ff_seconds"] if "ff" in run else run["backprop_seconds"]
        arm = run["arm"] if "ff" in run else "backprop"
        lines.append(f"| {arm} | {ours} | {twin} | {seconds:.0f} | `{run['command']}` |")
    return "\n".join([*lines, "", origin(name)])


def depth(name: str) -> str:
    """Table of chains of blocks beside their twins and controls, nats a token; fewer than three seeds are marked."""
    lines = [
        "| tier | blocks have | blocks, from the input upwards | gap to the twin with the same parts "
        "| twin, same parts | twin, no channels | twin, a loss a block | first block alone | two such, mean "
        "| mean of the blocks | gain of depth kept, % | cosine with backprop, by block | time, x twin | seeds "
        "| command |",
        "|---" * 15 + "|",
    ]
    for runs in rows(name):
        flat = [
            run
            | {"gap": run["per_block"][-1] - run["twin_same_parts"], "slower": run["ms"] / run["twin_ms"]}
            | {"kept": 100 * run["share_of_depth_kept"]}
            for run in runs
        ]
        keys = ("gap", "twin_same_parts", "twin", "twin_supervised", "block_1", "independent", "average")
        values = [spread(flat, key, 4) for key in keys]
        ends = [[*run["cosine"].values()][-1] for run in runs if run["cosine"]]
        values += [spread(flat, "kept", 0), means(zip(*ends, strict=True)), spread(flat, "slower", 2)]
        seeds = seeds_of(runs) if len(runs) > 2 else f"{seeds_of(runs)} (a first look)"
        lines.append(
            f"| {runs[0]['tier']} | {parts_of(runs[0])} | {blocks_of(runs)} | {' | '.join(values)} | {seeds} | "
            f"`{training_command(runs[0]['command'])}` |"
        )
    picture = "![Loss of every block](pictures/depth.png)"
    return "\n".join([*lines, "", origin(name), "", picture])


def parts_of(run: dict[str, Any]) -> str:
    """What the blocks of a chain have."""
    if "--no-channels" in run["command"]:
        return "the stream alone"
    if not run["lookahead"]:
        return "own channels"
    return "own channels, lookahead" + (f", {run['horizon']} blocks" if run.get("horizon", 1) > 1 else "")


def depth_ideas(name: str) -> str:
    """Table of changes to a chain, each beside the chain without it, of the same seed on the same windows."""
    usual = {chain(run): run for runs in rows("depth") for run in runs if "--no-channels" not in run["command"]}
    lines = [
        "| change | tier | blocks, from the input upwards | last block against the chain without it, by seed "
        "| CPU seconds | those of that chain | seeds | command |",
        "|---" * 8 + "|",
    ]
    for runs in rows(name):
        pairs = [(run, usual.get(chain(run))) for run in runs]
        known = [(run["per_block"][-1] - plain["per_block"][-1], plain) for run, plain in pairs if plain is not None]
        gains = " ".join(f"{gain:+.4f}" for gain, _ in known)
        seconds = f"{sum(run['cpu_seconds'] for run in runs) / len(runs):.0f}"
        others = f"{sum(plain['cpu_seconds']['chain'] for _, plain in known) / len(known):.0f}" if known else ""
        lines.append(
            f"| {runs[0]['idea']} | {runs[0]['tier']} | {blocks_of(runs)} | {gains} | {seconds} | {others} | "
            f"{seeds_of(runs)} | `{training_command(runs[0]['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def chain(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a chain and a change to it have in common."""
    sizes = re.findall(r"--(?:data|tokens|layers|width|context|batch|steps) \S+|--small", run["command"])
    return (run["negatives"], run["lookahead"], run["refresh"], run["seed"], *sorted(sizes))


def aesop(name: str) -> str:
    """Table of Hinton's experiment."""
    lines = [
        "| arm | negatives | accuracy, learned strings, % | accuracy, held out, % | nats, learned | nats, held out | "
        "epochs | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        flat = [
            {f"{split}_{key}": 100 * run[split][key] if key == "accuracy" else run[split][key]}
            for run in runs
            for split in ("train", "held_out")
            for key in ("accuracy", "nats")
        ]
        digits = {"train_accuracy": 1, "held_out_accuracy": 1, "train_nats": 3, "held_out_nats": 3}
        cells = [spread([part for part in flat if key in part], key, digits[key]) for key in digits]
        source = "" if first["arm"] in ("frozen", "twin") else first["negatives"].replace("_", "-")
        lines.append(
            f"| {first['arm']} | {source} | {' | '.join(cells)} | {first['epochs']} | "
            f"`{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])
