"""Table of converted models beside their twins."""

from __future__ import annotations

from tables_common import means, origin, rows, seeds_of, spread, training_command


def converted(name: str) -> str:
    """Table of models of other libraries: accuracy and CPU time of both, after equal epochs."""
    lines = [
        "| model | blocks | tier | test accuracy, % | by block | twin, test, % | CPU minutes, FF / twin | "
        "examples x epochs | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        minutes = " / ".join(spread(runs, key) for key in ("cpu_minutes", "twin_cpu_minutes"))
        lines.append(
            f"| `{first['model']}` | {first['blocks']} | {first['tier']} | {spread(runs, 'test')} | "
            f"{means(zip(*(run['test_by_block'] for run in runs), strict=True))} | {spread(runs, 'twin_test')} | "
            f"{minutes} | {first['train']} x {first['epochs']} | {seeds_of(runs)} | "
            f"`{training_command(first['command'])}` |"
        )
    said = "Adam at 1e-3; validation examples chose the readout alone. A row of fewer than three seeds is no result."
    return "\n".join([*lines, "", said, "", origin(name)])
