"""Tables of time, memory, ranks, kills and precisions."""

from __future__ import annotations

from typing import Any

from tables_common import origin, rows, spread


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


def gpt_steps(name: str) -> str:
    """Table of step times and generation speeds of language models."""
    lines = [
        "| layers, in a block, precision | FF step, ms | twin, ms | ratio | "
        "generation, tokens a second, FF / twin (1 text; 16) | command |",
        "|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        speeds = "; ".join(
            f"{each['ff_tokens_per_second']} / {each['twin_tokens_per_second']}" for each in run["generation"]
        )
        lines.append(
            f"| {run['layers']}, {run['layers_per_block']}, {run['precision']} | {run['ff_ms']} | {run['twin_ms']} | "
            f"{run['ratio']} | {speeds} | `{run['command']}` |"
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


def parallel(name: str) -> str:
    """Table of the throughput of two ranks."""
    lines = [
        "| strategy | batch | speed-up | of sleeping blocks | one rank, two ranks, ms | collectives, messages a step | "
        "MB a step | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        lines.append(
            f"| `{run['strategy']}` | {run['batch']} | {run['speedup']} | {run['sleep_speedup']} | "
            f"{run['one_rank_ms']}, {run['two_ranks_ms']} | {run['collectives_per_step']:g}, "
            f"{run['messages_per_step']:g} | {run['bytes_per_step'] / 1e6:.1f} | `{run['command']}` |"
        )
    bubbles = run["gpipe_bubble"]  # the same in every run: it is computed
    shares = ", ".join(f"{100 * share:.0f} % with {m} micro-batches" for m, share in bubbles.items())
    end = f"A pipeline of two stages trained by backprop would idle, by GPipe or 1F1B, {shares}."
    return "\n".join([*lines, "", end, "", origin(name)])


def resumes(name: str) -> str:
    """Table of trainings that were killed and resumed."""
    lines = ["| network | ranks | killed | bit-equal afterwards | command |", "|---|---|---|---|---|"]
    for (run,) in rows(name):
        ranks = " and ".join(map(str, run["ranks"]))
        lines.append(f"| {run['network']} | {ranks} | {run['kills']} | {run['bit_equal']} | `{run['command']}` |")
    return "\n".join([*lines, "", origin(name)])


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
        lines += ["", f"`{run['command']}`: {spent}."]
    return "\n".join([*lines, "", origin(name)])


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
        parts.append(f"`{run['command']}`")
    return "\n\n".join([*parts, origin(name)])


def overheads(name: str) -> str:
    """Table of what callbacks and logging cost."""
    lines = [
        "| network | share of CPU time | of wall time | a step without, ms | extra: a step, a logged one, an epoch, ms "
        "| command |",
        "|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        extra = ", ".join(spread(runs, f"{kind}_extra_ms", 1) for kind in ("step", "logged", "epoch"))
        lines.append(
            f"| {first['network']} | {spread(runs, 'overhead', 3)} | {spread(runs, 'wall_overhead', 3)} | "
            f"{spread(runs, 'step_ms', 1)} | {extra} | `{first['command']}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def rooflines(name: str) -> str:
    """Table of steps over the matrix products that their algorithm needs."""
    lines = [
        "| network, precision | step, ms | products alone, ms | step over bound | fastest product, GFLOP/s | command |",
        "|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        lines.append(
            f"| {run['network']}, `{run['precision']}` | {run['step_ms']} | {run['bound_ms']} | "
            f"{run['step_over_bound']} | {run['gemm_gflops']} | `{run['command']}` |"
        )
    picture = "![Share of a step by kind of operation](pictures/roofline.png)"
    return "\n".join([*lines, "", picture, "", origin(name)])


def before_after(name: str) -> str:
    """Table of steps of recipes at two commits, measured in turns."""
    lines = ["| recipe, precision | before, ms a step | after, ms a step | after over before |", "|---|---|---|---|"]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for runs in rows(name):
        for run in runs:
            found.setdefault((run["recipe"], run["precision"]), []).append(run)
    for (recipe, precision), (before, after) in found.items():
        ratio = after["step_ms"] / before["step_ms"]
        lines.append(f"| {recipe}, `{precision}` | {before['step_ms']} | {after['step_ms']} | {ratio:.2f} |")
    command = "python recipes/benchmarks/minutes.py RECIPE --steps N"
    note = f"One run each, in turns; before is {before['commit']}. `{command}` in a checkout of each."
    return "\n".join([*lines, "", note, "", origin(name)])
