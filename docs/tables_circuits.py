"""Tables of networks with a time of their own: predictive circuits and spiking networks."""

from __future__ import annotations

from tables_common import Runs, Table, means, rows, spread, spread_if_any

PICTURES = ("reconstruction_error", "reconstruction_error_from_top", "mean_image_error")
PREDICTIVE = Table(
    {
        "recipe": lambda runs: f"`{runs[0]['recipe']}`",
        "tier": lambda runs: runs[0]["tier"],
        "test error, %": lambda runs: spread_if_any(runs, "test_error"),
        "validation error, %": lambda runs: spread(runs, "validation_error"),
        "squared error of reconstructions, from the top, of the mean image": lambda runs: ", ".join(
            spread_if_any(runs, key, 1) or "none" for key in PICTURES
        ),
        "samples recognised, share": lambda runs: spread_if_any(runs, "recognised_samples", 3),
        "error of their judge, %": lambda runs: spread_if_any(runs, "judge_validation_error"),
        "epochs": lambda runs: runs[0]["epochs"],
        "CPU minutes": lambda runs: spread(runs, "cpu_minutes", 1),
    }
)
SPIKING = Table(
    {
        "data": lambda runs: runs[0]["data"],
        "tier": lambda runs: runs[0]["tier"],
        "test error, %": lambda runs: spread_if_any(runs, "test_error"),
        "by block": lambda runs: means(zip(*(run.get("test_error_by_block", []) for run in runs), strict=False)),
        "validation error, %": lambda runs: spread_if_any(runs, "validation_error"),
        "twin by surrogate gradients, test, %": lambda runs: spread_if_any(runs, "twin_test_error"),
        "linear readout, test, %": lambda runs: spread_if_any(runs, "linear_error"),
        "memory, 100 steps over 10": lambda runs: spread_if_any(runs, "memory_ratio", 3),
        "epochs": lambda runs: runs[0]["epochs"],
        "CPU minutes, FF / twin": lambda runs: minutes(runs),
    }
)


def minutes(runs: Runs) -> str:
    """CPU minutes of both, as far as they were trained."""
    each = [{key: run.get(f"{key}_seconds", 0) / 60 for key in ("train_cpu", "twin_train_cpu")} for run in runs]
    return " / ".join(spread(each, key, 1) for key in each[0] if each[0][key])


def predictive(name: str) -> str:
    """Predictive Forward-Forward: what it classifies, reconstructs and makes up."""
    return PREDICTIVE.written((runs, runs) for runs in rows(name))


def spiking(name: str) -> str:
    """Spiking networks beside their twin and a linear readout."""
    return SPIKING.written((runs, runs) for runs in rows(name))
