"""The table of the README: eight tasks, Forward-Forward beside the same network trained by backprop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from tables_depth import with_best_twin
from tables_images import self_contrast_runs, with_twins
from tables_language import beside_twins

FEW, JPEG = "\\*", "†"
NOTES = (
    f"{FEW} fewer than three seeds, a first look. {JPEG} CIFAR-10 from a copy in JPEG, not comparable with published "
    "numbers. Means over seeds; validation data chose, and the test set was looked at once. Of byte-pair tokens the "
    "twin is the best of all rates, losses and parts that were tried, on validation text."
)


class Row(NamedTuple):
    """A task, the values of all seeds, those of the twin, and the tier."""

    task: str
    ours: list[float]
    twin: list[float]
    tier: str
    digits: int = 2

    def line(self) -> str:
        """As it stands in the table."""
        return f"| {self.task} | {self.cell(self.ours)} | {self.cell(self.twin)} | {self.tier} |"

    def cell(self, values: list[float]) -> str:
        """Mean of the seeds, marked if there are few."""
        return mean(values, self.digits)

    def behind(self) -> float:
        """How much worse than the twin, in the unit of the row."""
        worse = fmean(self.ours) - fmean(self.twin)
        return worse if "error" in self.task or "nats" in self.task else -worse


def mean(values: list[float], digits: int) -> str:
    """Mean of the seeds, marked if there are few."""
    return f"{fmean(values):.{digits}f}{FEW * (len(values) < 3)}" if values else ""


def best_supported(found: list[Any]) -> Any:
    """Of runs of one recipe and tier that differ in length, those with most seeds, then those that cost most."""
    return max(found, key=lambda one: (len(one[1]), fmean(seed["cpu_minutes"] for seed in one[1])))


def classifier(task: str, file: str, recipe: str) -> Iterator[Row]:
    """A recipe whose seeds have values ``test`` and ``twin_test``."""
    found = [part for part in with_twins(file) if part[0][0]["recipe"] == recipe and not part[0][0].get("left_out")]
    if found:
        runs, each, twins, _ = best_supported(found)
        twin = [one["twin_test"] for one in twins]
        yield Row(task, [one["test"] for one in each], twin, runs[0]["tier"])


def without_labels(task: str, recipe: str) -> Iterator[Row]:
    """Self-contrast; the longest run."""
    found = [(runs, runs, twins) for runs, twins in self_contrast_runs("scff") if runs[0]["recipe"] == recipe]
    if found:
        runs, _, twins = best_supported(found)
        yield Row(task, [run["test_accuracy"] for run in runs], [run["twin"] for run in twins], runs[0]["tier"])


def unheard_speakers(task: str, recipe: str, tier: str) -> Iterator[Row]:
    """Every speaker left out once; a seed is the mean over them."""
    found = [
        (each, twins)
        for runs, each, twins, _ in with_twins("speech")
        if runs[0]["left_out"] and (runs[0]["recipe"], runs[0]["tier"]) == (recipe, tier)
    ]
    if found:
        yield Row(task, over_speakers(found, 0, "test"), over_speakers(found, 1, "twin_test"), tier)


def over_speakers(found: list[tuple[Any, Any]], place: int, key: str) -> list[float]:
    """Mean over speakers of every seed that all of them have."""
    by_seed = [{one["seed"]: one[key] for one in part[place]} for part in found]
    common = set.intersection(*map(set, by_seed))
    return [fmean(part[seed] for part in by_seed) for seed in sorted(common)]


def characters(task: str) -> Iterator[Row]:
    """A GPT on tiny Shakespeare with Hinton's logistic loss, two layers a block."""
    for runs in beside_twins("language").values():
        if (runs[0]["arm"], runs[0]["layers_per_block"]) == ("logistic", 2):
            yield Row(task, [run["ff"] for run in runs], [run["twin"] for run in runs], runs[0]["tier"], 4)


def byte_pairs(task: str) -> Iterator[Row]:
    """A GPT with channels and lookahead on byte-pair tokens: the last block alone, beside the best twin there is."""
    found = [runs for runs in with_best_twin("depth") if runs[0]["lookahead"]]
    if found:
        runs = max(found, key=lambda one: (len(one), one[0].get("horizon", 1)))  # that of the recipe
        ours = [run["per_block"][-1] for run in runs]
        twin = [run["best_twin"] for run in runs]
        yield Row(task, ours, twin, runs[0]["tier"], 3)


def of_readme() -> Iterator[Row]:
    """The tasks of the README."""
    yield from chain(
        classifier("MNIST, MLP, test error, %", "mnist_mlp", "mnist_mlp_jitter"),
        classifier("MNIST, convolutional, test accuracy, %", "class_goodness", "mnist_conv + with/own_contrast"),
        classifier(
            "Fashion-MNIST, convolutional, test accuracy, %", "class_goodness", "fashion_conv + with/own_contrast"
        ),
        classifier(
            f"CIFAR-10{JPEG}, convolutional, test accuracy, %", "class_goodness", "cifar_conv + with/class_softmax"
        ),
        without_labels(f"CIFAR-10{JPEG}, without labels, test accuracy, %", "cifar_scff"),
        unheard_speakers("Spoken digits, new speakers, test accuracy, %", "fsdd_conv", "T1"),
        characters("GPT, tiny Shakespeare, nats a character"),
        byte_pairs("GPT, novels, nats a byte-pair token"),
    )


def summary() -> str:
    """One line a task."""
    head = ["| task | Forward-Forward | same network, backprop | tier |", "|---|---|---|---|"]
    return "\n".join([*head, *(row.line() for row in of_readme()), "", NOTES])
