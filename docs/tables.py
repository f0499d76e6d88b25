"""Writes the tables of results from stored JSON: nobody types a number.

    python docs/tables.py          rewrites the tables in README.md and in the documentation

Every line of `docs/results/*.jsonl` is the last line of a benchmark's output. Lines that differ in nothing but the
seed are one row: mean, lowest and highest.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
START = "<!-- results: written by `python docs/tables.py`, from docs/results/*.jsonl -->"
END = "<!-- end of results -->"


def rows(name: str) -> list[list[dict[str, Any]]]:
    """The runs stored in one file, grouped by the command without its seed, in the order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in (DOCS / "results" / f"{name}.jsonl").read_text().splitlines():
        run = json.loads(line)
        groups.setdefault(re.sub(r" --seed \d+", "", run["command"]), []).append(run)
    return list(groups.values())


def spread(runs: list[dict[str, Any]], key: str, digits: int = 2) -> str:
    """Mean of a value over runs, with lowest and highest if there are several."""
    values = [run[key] for run in runs]
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def errors(name: str) -> str:
    """Table of test errors."""
    lines = [
        "| recipe | tier | test error, % | validation error, % | epochs | CPU minutes | seeds | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        minutes = f"{sum(run['train_cpu_seconds'] for run in runs) / len(runs) / 60:.1f}"
        seeds = ", ".join(str(run["seed"]) for run in runs)
        command = re.sub(r" --seed \d+", "", first["command"])
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(runs, 'test_error')} | "
            f"{spread(runs, 'validation_error')} | {first['epochs']} | {minutes} | {seeds} | `{command}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def step_times(name: str) -> str:
    """Table of step times."""
    lines = [
        "| network, batch, precision, negatives | FF, ms | backprop, ms | ratio | matmul share of FF | command |",
        "|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        network = f"784-{'-'.join(map(str, run['widths']))}, {run['batch']}, {run['precision']}, {run['negatives']}"
        lines.append(
            f"| {network} | {run['ff_ms']} | {run['backprop_ms']} | {run['ratio']} | {run['matmul_share']} | "
            f"`{run['command']}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def changes(name: str) -> str:
    """Table of validation errors after changing one thing."""
    lines = ["| command | validation error, % | by block | CPU seconds |", "|---|---|---|---|"]
    for (run,) in rows(name):
        blocks = ", ".join(str(error) for error in run["validation_error_by_block"])
        lines.append(f"| `{run['command']}` | {run['validation_error']} | {blocks} | {run['train_cpu_seconds']} |")
    return "\n".join([*lines, "", origin(name)])


def language(name: str) -> str:
    """Table of language models, each beside the twin of the same layers, text, length and seed."""
    everything = [run for group in rows(name) for run in group]
    twins = {(comparable(run), run["seed"]): run for run in everything if "backprop" in run}
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in everything:
        twin = twins[comparable(run), run["seed"]]
        best, one = twin["backprop"], twin["one_layer_backprop"]
        depth = {"gap": run["ff"] - best, "kept": 100 * (one - run["ff"]) / (one - best), "twin": best}
        command = re.sub(r" --(seed \d+|no-\S+|twin-\S+ \S+)", "", run["command"]) + rates_of(twin, run)
        groups.setdefault(command, []).append(run | depth)
    lines = [
        "| arm, tier | layers, in a block | FF, by block | FF, last block | gap to twin | FF, mean of blocks | twin | "
        "gain of depth kept, % | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for command, runs in groups.items():
        first = runs[0]
        cells = (("ff", 4), ("gap", 4), ("ff_average", 4), ("twin", 4), ("kept", 0))
        values = " | ".join(spread(runs, key, digits) for key, digits in cells)
        seeds = ", ".join(sorted(str(run["seed"]) for run in runs))
        lines.append(
            f"| {first['arm']}, {first['tier']} | {first['layers']}, {first['layers_per_block']} | {blocks_of(runs)} | "
            f"{values} | {seeds} | `{command}` |"
        )
    return "\n".join([*lines, "", floors_of(name), "", origin(name)])


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


def floors_of(name: str) -> str:
    """A sentence with what needs no training of layers, from the first run that measured it."""
    first = next(run for group in rows(name) for run in group if "ngram" in run)
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
        count = special.get(first["arm"], first["negatives"])
        seconds = sum(run["ff_seconds"] for run in runs) / len(runs)
        seeds = ", ".join(sorted(str(run["seed"]) for run in runs))
        lines.append(
            f"| {first['arm']} | {count} | {blocks_of(runs)} | {spread(runs, 'ff', 4)} | {seconds:.0f} | {seeds} | "
            f"`{re.sub(r' --seed [0-9]+', '', first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def blocks_of(runs: list[dict[str, Any]]) -> str:
    """Loss of every block, mean over runs."""
    return " ".join(
        f"{sum(values) / len(runs):.4f}" for values in zip(*(run["per_block"] for run in runs), strict=True)
    )


def curve(name: str) -> str:
    """Table of losses while two networks learn."""
    parts = []
    for (run,) in rows(name):
        points = zip(run["curve"]["ff"], run["curve"]["backprop"], strict=True)
        lines = ["| million tokens | FF | twin | gap |", "|---|---|---|---|"]
        lines += [f"| {a[0] / 1e6:.2f} | {a[1]:.4f} | {b[1]:.4f} | {a[1] - b[1]:.4f} |" for a, b in points]
        blocks = " ".join(f"{nats:.4f}" for nats in run["per_block"])
        one = f"One layer by backprop {run['one_layer_backprop']:.4f}. " if "one_layer_backprop" in run else ""
        end = (
            f"On the whole validation text: blocks {blocks}, twin {run['backprop']:.4f}. {one}"
            f"CPU seconds {run['ff_seconds']:.0f} and {run['backprop_seconds']:.0f}. `{run['command']}`"
        )
        parts += ["\n".join(lines), end] + ([floors_of(name)] if "ngram" in run else [])
    return "\n\n".join([*parts, origin(name)])


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
            f"`{re.sub(r' --seed [0-9]+', '', first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def gpt_steps(name: str) -> str:
    """Table of step times and generation speeds of language models."""
    lines = [
        "| layers, in a block | FF step, ms | twin, ms | ratio | generation, tokens a second, FF / twin (1 text; 16) | "
        "command |",
        "|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        speeds = "; ".join(
            f"{each['ff_tokens_per_second']} / {each['twin_tokens_per_second']}" for each in run["generation"]
        )
        lines.append(
            f"| {run['layers']}, {run['layers_per_block']} | {run['ff_ms']} | {run['twin_ms']} | {run['ratio']} | "
            f"{speeds} | `{run['command']}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def memory(name: str) -> str:
    """Table of the memory of a step, above parameters and optimizer state, by depth."""
    parts = []
    for (run,) in rows(name):
        depths = sorted({row["depth"] for row in run["rows"]})
        lines = [f"| {run['network']}: peak in MiB at depth | {' | '.join(map(str, depths))} |"]
        lines.append("|---" * (len(depths) + 1) + "|")
        for mode in dict.fromkeys(row["mode"] for row in run["rows"]):
            peaks = {row["depth"]: f"{row['peak_mib']:.1f}" for row in run["rows"] if row["mode"] == mode}
            lines.append(f"| {mode} | {' | '.join(peaks[depth] for depth in depths)} |")
        ends = (
            f"With parameters and optimizer state, streamed FF takes {run['total_over_checkpointed']} of checkpointed "
            f"backprop at the greatest depth, and {run['total_over_step_in_backward']} of it with the optimizer's step "
            f"in the backward pass. `{run['command']}`"
        )
        parts += ["\n".join(lines), ends]
    return "\n\n".join([*parts, origin(name)])


def origin(name: str) -> str:
    """Where and when the runs of a file were made."""
    runs = [run for group in rows(name) for run in group]
    facts = [sorted({run[key] for run in runs}) for key in ("hardware", "commit", "date")]
    hardware, commits, dates = (", ".join(values) for values in facts)
    return f"Measured on {hardware}, one thread, {dates}; commit {commits}."


def replace(path: Path, body: str) -> bool:
    """Put ``body`` between the markers of a page; tell whether that changed it."""
    old = path.read_text()
    before, rest = old.split(START, 1)
    new = f"{before}{START}\n\n{body}\n\n{END}{rest.split(END, 1)[1]}"
    path.write_text(new)
    return new != old


def main() -> int:
    """Rewrite the tables; exit status 1 if that changed something."""
    images, steps, text = errors("mnist_mlp"), step_times("step_time"), language("language")
    results = {
        "Images": images,
        "Language: tiny Shakespeare, characters": text,
        "Language: more layers, more text": curve("language_scale"),
        "Language: Hinton's strings of Aesop": aesop("aesop"),
        "Memory of a step": memory("memory"),
        "Time of a step": "\n\n".join([steps, gpt_steps("step_time_gpt")]),
    }
    changed = [
        replace(DOCS.parent / "README.md", f"{images}\n\n{text}"),
        replace(DOCS / "explanation" / "what_failed.md", changes("ablations")),
        replace(DOCS / "explanation" / "own_negatives.md", negatives("negatives")),
        replace(DOCS / "results.md", "\n\n".join(f"## {title}\n\n{body}" for title, body in results.items())),
    ]
    return int(any(changed))


if __name__ == "__main__":
    sys.exit(main())
