"""Tables of depth on byte-pair tokens: chains beside twins and controls, ideas, rates at full width."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from tables_common import Runs, Table, means, rows, spread, spread_if_any
from tables_language import blocks_of

BY_BACKPROP = ("twin_same_parts", "twin", "twin_supervised")
"""The best of these is that of all runs on the same windows, whatever their tier."""

DEPTH = Table(
    {
        "network": lambda runs: size_of(runs[0]),
        "tier": lambda runs: runs[0]["tier"],
        "blocks have": lambda runs: parts_of(runs[0]),
        "rates of matrices, of all else": lambda runs: rates_of(runs[0]),
        "blocks, from the input upwards": lambda runs: blocks_of(runs),
        "gap to the twin with the same parts": lambda runs: spread(
            [{"gap": run["per_block"][-1] - run["twin_same_parts"]} for run in runs], "gap", 4
        ),
        "gap to the best twin": lambda runs: spread(
            [{"gap": run["per_block"][-1] - run["best_twin"]} for run in runs], "gap", 4
        ),
        "perplexity, x best twin": lambda runs: spread(
            [{"ratio": math.exp(run["per_block"][-1] - run["best_twin"])} for run in runs], "ratio", 3
        ),
        "twin, same parts": lambda runs: spread(runs, "twin_same_parts", 4),
        "twin, no channels": lambda runs: spread_if_any(runs, "twin", 4),
        "twin, a loss a block": lambda runs: spread_if_any(runs, "twin_supervised", 4),
        "first block alone": lambda runs: spread(runs, "block_1", 4),
        "two such, mean": lambda runs: spread_if_any(runs, "independent", 4),
        "mean of the blocks": lambda runs: spread_if_any(runs, "average", 4),
        "gain of depth kept, %": lambda runs: spread(
            [{"kept": 100 * run["share_of_depth_kept"]} for run in runs], "kept", 0
        ),
        "cosine with backprop, by block": lambda runs: means(
            zip(*([*run["cosine"].values()][-1] for run in runs if run["cosine"]), strict=True)
        ),
        "parameters, M; twin without channels": lambda runs: parameters_of(runs[0]),
        "time, x twin": lambda runs: spread([{"slower": run["ms"] / run["twin_ms"]} for run in runs], "slower"),
        "seeds": lambda runs: f"{len(runs)}{' (a first look)' * (len(runs) < 3)}",
    }
)


def depth(name: str) -> str:
    """The table of chains, and their pictures."""
    over_tokens = "![Gap to the best twin against tokens of training](pictures/depth_tokens.png)"
    return f"{chains(name)}\n\n![Loss of every block](pictures/depth.png)\n\n{over_tokens}"


def chains(name: str) -> str:
    """Chains of blocks beside their twins and controls, nats a token."""
    groups = with_best_twin(name)
    sizes = list(dict.fromkeys(size_of(runs[0]) for runs in groups))
    groups.sort(key=lambda runs: sizes.index(size_of(runs[0])))
    return DEPTH.written((runs, runs) for runs in groups)


def with_best_twin(name: str) -> list[Runs]:
    """Stored runs, grouped; each knows the best twin of all that saw the same windows."""
    groups = rows(name)
    best: dict[tuple[Any, ...], float] = {}
    for run in (run for runs in groups for run in runs):
        reached = [run[key] for key in BY_BACKPROP if run[key] is not None]
        best[alike(run)] = min([best.get(alike(run), math.inf), *reached])
    return [[run | {"best_twin": best[alike(run)]} for run in runs] for runs in groups]


NOVELS = "gutenberg_en_novels.txt"
"""The text that no table names."""


def size_of(run: dict[str, Any]) -> str:
    """How large a network is, and how many tokens it saw, of which text."""
    named = re.search(r" --tokens (\S+)", run["command"])
    encoding = named[1] if named else "gpt2:1024" if "--small" in run["command"] else "gpt2:4096"
    _, _, vocabulary = encoding.partition(":")
    known = f"{int(vocabulary):,} tokens" if vocabulary else {"gpt2": "50,257 tokens"}.get(encoding, encoding)
    blocks = f"{run['layers'] // run['layers_per_block']} blocks of {run['layers_per_block']}"
    (text,) = re.findall(r" --data (\S+)", run["command"])
    other = "" if text == NOVELS else f" on {text}"
    return f"{known}, width {run['width']}, {blocks}{other}; {run['tokens'] / 1e6:.1f} M"


def alike(run: dict[str, Any]) -> tuple[Any, ...]:
    """What runs have in common that saw the same windows."""
    return size_of(run), run["seed"]


def parts_of(run: dict[str, Any]) -> str:
    """What the blocks of a chain have."""
    narrow = re.search(r" --channel-size (\d+)", run["command"])
    channels = f"own channels{f' of {narrow[1]}' if narrow else ''}"
    parts = ["the stream alone" if "--no-channels" in run["command"] else channels]
    if run["lookahead"]:
        parts += ["lookahead"]
        parts += [f"{run['horizon']} blocks"] if run.get("horizon", 1) > 1 else []
        parts += [f"copies renewed every {run['refresh']} updates"] if run["refresh"] > 1 else []
    return ", ".join(parts)


def rates_of(run: dict[str, Any]) -> str:
    """Learning rates of a chain, and those of its twins where they differ."""
    every = (run["rates"], run.get("twin_rates", run["rates"]))
    chain, twin = (", ".join(f"{rate:g}" for rate in rates) for rates in every)
    return chain + (f"; twins {twin}" if twin != chain else "")


def parameters_of(run: dict[str, Any]) -> str:
    """Millions of the chain, with the tables and readouts of its blocks, and of the twin without channels."""
    counted = run.get("parameters")
    return f"{counted['chain'] / 1e6:.1f}; {counted['twin'] / 1e6:.1f}" if counted else ""


class Idea(NamedTuple):
    """A change to a chain: its runs, and the chain without it, of the same seed on the same windows."""

    runs: Runs
    usual: Runs


DEPTH_IDEAS = Table(
    {
        "change": lambda idea: change_of(idea.runs[0]),
        "tier": lambda idea: idea.runs[0]["tier"],
        "rates of matrices, of all else": lambda idea: rates_of(idea.runs[0]),
        "blocks, from the input upwards": lambda idea: blocks_of(idea.runs),
        "last block against the chain without it, by seed": lambda idea: " ".join(
            f"{run['per_block'][-1] - usual['per_block'][-1]:+.4f}"
            for run, usual in zip(idea.runs, idea.usual, strict=False)
        ),
        "CPU seconds": lambda idea: f"{sum(run['cpu_seconds'] for run in idea.runs) / len(idea.runs):.0f}",
        "those of that chain": lambda idea: spread_if_any(
            [{"seconds": run["cpu_seconds"]["chain"]} for run in idea.usual], "seconds", 0
        ),
    }
)


def change_of(run: dict[str, Any]) -> str:
    """The idea, or the argument that differs."""
    size = re.search(r"--channel-size (\d+)", run["command"])
    further = ", two blocks ahead" if "--horizon 2" in run["command"] else ""
    return f"channels of {size[1]}" if size else f"{run['idea']}{further}"


def depth_ideas(name: str) -> str:
    """Changes to a chain, each beside the chain without it."""
    every = (run for file in ("depth_first_rates", "depth") for runs in rows(file) for run in runs)
    usual = {chain(run): run for run in every if "--no-channels" not in run["command"]}
    known = ([run for run in runs if chain(run) in usual] for runs in rows(name))
    found = (Idea(runs, [usual[chain(run)] for run in runs]) for runs in known if runs)
    return DEPTH_IDEAS.written((idea, idea.runs) for idea in found)


WIDE = Table(
    {
        "tier": lambda runs: runs[0]["tier"],
        "negatives": lambda runs: runs[0]["negatives"] or "all",
        "lr": lambda runs: re.findall(r"--lr (\S+)", runs[0]["command"])[0],
        "blocks, from the input upwards": lambda runs: blocks_of(runs),
        "CPU seconds": lambda runs: spread(runs, "cpu_seconds", 0),
    }
)


def wide(name: str) -> str:
    """Rates of tables and readouts at full width: short trainings of chains with own channels, 4,096 tokens."""
    return WIDE.written((runs, runs) for runs in rows(name))


def chain(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a chain and a change to it have in common."""
    names = "data|tokens|layers|layers-per-block|width|context|batch|steps"
    sizes = re.findall(rf"--(?:{names}) \S+|--small", run["command"])
    horizon = re.search(r"--horizon \d+", run["command"]) if run["lookahead"] else None
    parts = (run["negatives"], run["lookahead"], run["refresh"], horizon and horizon[0])
    return (*parts, *run["rates"], run["seed"], *sorted(sizes))
