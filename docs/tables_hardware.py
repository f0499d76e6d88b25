"""Tables of time, memory, ranks, kills and precisions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables_common import Runs, Table, fold, rows, spread

STEP_TIMES = Table(
    {
        "network": lambda run: f"784-{'-'.join(map(str, run['widths']))}",
        "batch": lambda run: run["batch"],
        "precision": lambda run: f"`{run['precision']}`",
        "negatives": lambda run: run["negatives"],
        "FF, ms": lambda run: run["ff_ms"],
        "backprop, ms": lambda run: run["backprop_ms"],
        "ratio": lambda run: run["ratio"],
        "matmul share of FF": lambda run: run["matmul_share"],
    }
)
GPT_STEPS = Table(
    {
        "layers, in a block": lambda run: f"{run['layers']}, {run['layers_per_block']}",
        "precision": lambda run: f"`{run['precision']}`",
        "FF step, ms": lambda run: run["ff_ms"],
        "twin, ms": lambda run: run["twin_ms"],
        "ratio": lambda run: run["ratio"],
        "generation, tokens a second, FF / twin (1 text; 16)": lambda run: "; ".join(
            f"{each['ff_tokens_per_second']} / {each['twin_tokens_per_second']}" for each in run["generation"]
        ),
    }
)
PARALLEL = Table(
    {
        "strategy": lambda run: f"`{run['strategy']}`",
        "batch": lambda run: run["batch"],
        "speed-up": lambda run: run["speedup"],
        "of sleeping blocks": lambda run: run["sleep_speedup"],
        "one rank, two ranks, ms": lambda run: f"{run['one_rank_ms']}, {run['two_ranks_ms']}",
        "collectives, messages a step": lambda run: f"{run['collectives_per_step']:g}, {run['messages_per_step']:g}",
        "MB a step": lambda run: f"{run['bytes_per_step'] / 1e6:.1f}",
    }
)
RESUMES = Table(
    {
        "network": lambda run: run["network"],
        "ranks": lambda run: " and ".join(map(str, run["ranks"])),
        "killed": lambda run: run["kills"],
        "bit-equal afterwards": lambda run: run["bit_equal"],
    }
)
OVERHEADS = Table(
    {
        "network": lambda runs: runs[0]["network"],
        "share of CPU time": lambda runs: spread(runs, "overhead", 3),
        "of wall time": lambda runs: spread(runs, "wall_overhead", 3),
        "a step without, ms": lambda runs: spread(runs, "step_ms", 1),
        "extra: a step, a logged one, an epoch, ms": lambda runs: ", ".join(
            spread(runs, f"{kind}_extra_ms", 1) for kind in ("step", "logged", "epoch")
        ),
    }
)
ROOFLINES = Table(
    {
        "network": lambda run: run["network"],
        "precision": lambda run: f"`{run['precision']}`",
        "step, ms": lambda run: run["step_ms"],
        "products alone, ms": lambda run: run["bound_ms"],
        "step over bound": lambda run: run["step_over_bound"],
        "fastest product, GFLOP/s": lambda run: run["gemm_gflops"],
    }
)
BEFORE_AFTER = Table(
    {
        "recipe": lambda pair: pair[0]["recipe"],
        "precision": lambda pair: f"`{pair[0]['precision']}`",
        "before, ms a step": lambda pair: pair[0]["step_ms"],
        "after, ms a step": lambda pair: pair[1]["step_ms"],
        "after over before": lambda pair: f"{pair[1]['step_ms'] / pair[0]['step_ms']:.2f}",
    }
)


def each_run(name: str) -> Iterator[tuple[dict[str, Any], Runs]]:
    """Runs that stand for themselves."""
    yield from ((run, [run]) for (run,) in rows(name))


def step_times(name: str) -> str:
    """Steps of an MLP."""
    return STEP_TIMES.written(each_run(name))


def gpt_steps(name: str) -> str:
    """Steps and generation of language models."""
    return GPT_STEPS.written(each_run(name))


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
            f"in the backward pass. {fold([run])}"
        )
        parts += ["\n".join(lines), ends]
    return "\n\n".join(parts)


def parallel(name: str) -> str:
    """The throughput of two ranks."""
    (run, *_) = [run for (run,) in rows(name)]
    bubbles = run["gpipe_bubble"]  # the same in every run: it is computed
    shares = ", ".join(f"{100 * share:.0f} % with {m} micro-batches" for m, share in bubbles.items())
    end = f"A pipeline of two stages trained by backprop would idle, by GPipe or 1F1B, {shares}."
    return f"{PARALLEL.written(each_run(name))}\n\n{end}"


def resumes(name: str) -> str:
    """Trainings that were killed and resumed."""
    return RESUMES.written(each_run(name))


def faults(name: str) -> str:
    """Table of a campaign of faults: what was tried, and what went wrong of it."""
    lines = ["| tried | number | gone wrong | meaning |", "|---|---|---|---|"]
    for (run,) in rows(name):
        killed = f"{run['kills']}, {run['kills_of_two_ranks']} of them of two ranks"
        lines += [
            f"| kills at a write | {killed} | {run['kills'] - run['bit_equal']} | "
            "what the resumed run has differs: weights, optimizers, loops, logged values or tables |",
            f"| flipped bits, cut files | {run['flips']}, {run['truncations']} | {run['silent']} | "
            "loaded without a word, and differs |",
            f"| payloads on ways in | {run['payloads']} | {run['executed']} | something in it was run |",
            f"| fuzzed calls | {run['fuzz_calls']}, {run['refused_calls']} of them refused | {run['tracebacks']} | "
            "neither right nor refused in one line, in any row |",
        ]
        spent = f"{run['cpu_seconds'] / 60:.1f} minutes of CPU, {run['seconds'] / 60:.0f} of waiting for its parts"
        lines += ["", f"It took {spent}. {fold([run])}"]
    return "\n".join(lines)


def precisions(name: str) -> str:
    """Table of training losses in several precisions."""
    parts = []
    for (run,) in rows(name):
        by_network: dict[str, list[dict[str, Any]]] = {}
        for row in run["rows"]:
            by_network.setdefault(row["network"], []).append(row)
        for network, found in by_network.items():
            updates = [(index + 1) * found[0]["every"] for index in range(len(found[0]["curve"]))]
            picked = range(3, len(updates), 4)
            lines = [f"| {network}: loss at update | {' | '.join(str(updates[i]) for i in picked)} | at the end |"]
            lines.append("|---" * (len(picked) + 2) + "|")
            for row in found:
                losses = " | ".join(f"{row['curve'][i]:.4f}" for i in picked)
                lines.append(f"| `{row['precision']}` | {losses} | `{row['metric']}` {row['final']:.4f} |")
            parts.append("\n".join(lines))
        parts.append(fold([run]))
    return "\n\n".join(parts)


def overheads(name: str) -> str:
    """What callbacks and logging cost."""
    return OVERHEADS.written((runs, runs) for runs in rows(name))


def rooflines(name: str) -> str:
    """Steps over the matrix products that their algorithm needs."""
    picture = "![Share of a step by kind of operation](pictures/roofline.png)"
    return f"{ROOFLINES.written(each_run(name))}\n\n{picture}"


def before_after(name: str) -> str:
    """Steps of recipes at two commits, measured in turns."""
    found: dict[tuple[str, str], Runs] = {}
    for run in [run for runs in rows(name) for run in runs]:
        found.setdefault((run["recipe"], run["precision"]), []).append(run)
    return BEFORE_AFTER.written((pair, pair) for pair in found.values())
