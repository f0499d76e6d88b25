"""Table of converted models beside their twins."""

from __future__ import annotations

from tables_common import Table, means, rows, spread

CONVERTED = Table(
    {
        "model": lambda runs: f"`{runs[0]['model']}`",
        "blocks": lambda runs: runs[0]["blocks"],
        "tier": lambda runs: runs[0]["tier"],
        "test accuracy, %": lambda runs: spread(runs, "test"),
        "by block": lambda runs: means(zip(*(run["test_by_block"] for run in runs), strict=True)),
        "twin, test, %": lambda runs: spread(runs, "twin_test"),
        "CPU minutes, FF / twin": lambda runs: " / ".join(
            spread(runs, key) for key in ("cpu_minutes", "twin_cpu_minutes")
        ),
        "examples x epochs": lambda runs: f"{runs[0]['train']} x {runs[0]['epochs']}",
    }
)


def converted(name: str) -> str:
    """Models of other libraries: accuracy and CPU time of both, after equal epochs."""
    table = CONVERTED.written((runs, runs) for runs in rows(name))
    return f"{table}\n\nAdam at 1e-3, not tuned; validation examples chose the readout alone."
