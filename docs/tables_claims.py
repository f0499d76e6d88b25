"""What is said of Forward-Forward: for each claim a finding, and the numbers that it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml
from tables_common import DOCS, Runs, Table, rows
from tables_language import by_setting
from tables_summary import FEW, JPEG, Row, of_readme

SENTENCES: dict[str, str] = yaml.safe_load((DOCS / "claims.yaml").read_text(encoding="utf-8"))
Curve = list[list[float]]


def said() -> str:
    """All claims: a heading, findings and tables each."""
    run = claims()
    parts = {
        "It saves memory": memory(),
        "It is slower": f"{slower()}\n\n{to_equal_loss()}",
        "It overfits more": overfits(run) if run else "",
        "It generalises worse": generalises(),
        "It does not scale to large networks": "\n\n".join([*([scales(run)] if run else []), scales_on_text()]),
        "It is less bound to local minima": minima(run) if run else "",
    }
    return "\n\n".join(f"## {title}\n\n{body}" for title, body in parts.items() if body)


def finding(title: str, **numbers: object) -> str:
    """A sentence with its numbers."""
    return SENTENCES[title].format(**numbers)


BEST = "checkpointed, step in backward"
MEMORY = Table(
    {
        "network": lambda one: f"{one['network']}, {one['depth']} layers",
        "Forward-Forward, MiB": lambda one: f"{one['ff streamed']['peak_mib']:.1f}",
        "backprop": lambda one: f"{one['backprop']['peak_mib']:.1f}",
        "checkpointed": lambda one: f"{one['checkpointed']['peak_mib']:.1f}",
        "and updated in the backward pass": lambda one: f"{one[BEST]['peak_mib']:.1f}",
        "in all, Forward-Forward / the last": lambda one: " / ".join(
            f"{one[mode]['total_mib']:.1f}" for mode in ("ff streamed", BEST)
        ),
    }
)


def memory() -> str:
    """Peak of a step above parameters and optimizer state, at the least and the greatest depth."""
    found = [(at_depth(run, depth), [run]) for (run,) in rows("memory") for depth in ends(run)]
    low, high = found[-2][0], found[-1][0]
    sentence = finding(
        "It saves memory",
        low=low["depth"],
        high=high["depth"],
        ff_low=low["ff streamed"]["peak_mib"],
        ff_high=high["ff streamed"]["peak_mib"],
        backprop_low=low["backprop"]["peak_mib"],
        backprop_high=high["backprop"]["peak_mib"],
        share=high["ff streamed"]["total_mib"] / high[BEST]["total_mib"],
    )
    picture = "![Memory of a step of a GPT against its depth](../pictures/first_page.png)"
    return "\n\n".join([sentence, picture, MEMORY.written(found)])


def ends(run: dict[str, Any]) -> tuple[int, int]:
    """Least and greatest depth of a run."""
    depths = [row["depth"] for row in run["rows"]]
    return min(depths), max(depths)


def at_depth(run: dict[str, Any], depth: int) -> dict[str, Any]:
    """What every way of training needs at a depth."""
    modes = {row["mode"]: row for row in run["rows"] if row["depth"] == depth}
    return {"network": run["network"].upper(), "depth": depth} | modes


STEPS = Table(
    {
        "network": lambda run: network_of(run),
        "processor": lambda run: (
            run["hardware"].split(" x ")[-1].split(",")[0].replace("(R)", "").removesuffix(" Processor")
        ),
        "precision": lambda run: f"`{run['precision']}`",
        "Forward-Forward, ms a step": lambda run: f"{run['ff_ms']:.1f}",
        "backprop, ms a step": lambda run: f"{run['backprop_ms'] if 'widths' in run else run['twin_ms']:.1f}",
        "ratio": lambda run: f"{run['ratio']:.2f}",
    }
)


def network_of(run: dict[str, Any]) -> str:
    """What a timed step trains."""
    if "widths" in run:
        return f"MLP 784-{'-'.join(map(str, run['widths']))}, {run['negatives']} negatives"
    return f"GPT, {run['layers']} layers, {run['layers_per_block']} a block, on {run['text']}"


def slower() -> str:
    """A step beside a step of backprop."""
    every = {name: [run for (run,) in rows(name)] for name in ("step_time", "step_time_gpt")}
    mlp, gpt = ([run["ratio"] for run in runs] for runs in every.values())
    sentence = finding("It is slower", mlp=f"{min(mlp):.2f} to {max(mlp):.2f}", gpt=f"{min(gpt):.2f} to {max(gpt):.2f}")
    return f"{sentence}\n\n{STEPS.written((run, [run]) for runs in every.values() for run in runs)}"


class Race(NamedTuple):
    """A network and its twin, the loss that both reach, and the CPU seconds until then."""

    run: dict[str, Any]
    twin: dict[str, Any]
    loss: float
    seconds: float
    twin_seconds: float

    def text(self) -> str:
        """What both read."""
        return "byte-pair tokens" if "--tokens" in self.run["command"] else "characters"


RACES = Table(
    {
        "text": lambda race: race.text(),
        "arm, tier": lambda race: f"{race.run['arm']}, {race.run['tier']}",
        "layers a block": lambda race: race.run["layers_per_block"],
        "loss that both reach": lambda race: f"{race.loss:.4f}",
        "Forward-Forward, CPU seconds": lambda race: f"{race.seconds:.0f}",
        "backprop, CPU seconds": lambda race: f"{race.twin_seconds:.0f}",
        "ratio": lambda race: f"{race.seconds / race.twin_seconds:.2f}",
    }
)


def to_equal_loss() -> str:
    """CPU seconds until a GPT on novels has the loss that it and its twin both reach."""
    found = list(races())
    ratios = [race.seconds / race.twin_seconds for race in found]
    layers = found[0].run["layers"]
    sentence = finding("Time to equal loss", layers=layers, low=min(ratios), high=max(ratios))
    return f"{sentence}\n\n{RACES.written((race, [race.run, race.twin]) for race in found)}"


def races() -> Iterator[Race]:
    """Networks that read their tokens once, each beside the twin that was trained to the end as it was."""
    plain = [[run for run in runs if "--remind" not in run["command"]] for runs in by_setting("language_scale")]
    for runs in plain:
        whole = [run for run in runs if "backprop" in run and "backprop" in run["curve"]]
        for run in runs:
            twins = [twin for twin in whole if all(twin[key] == run[key] for key in ("seed", "hardware"))]
            if "ff" in run.get("curve", {}) and twins:
                ours, theirs = run["curve"]["ff"], twins[0]["curve"]["backprop"]
                loss = max(min(nats for _, nats in curve) for curve in (ours, theirs))
                seconds = run["ff_seconds"] * share_until(ours, loss)
                yield Race(run, twins[0], loss, seconds, twins[0]["backprop_seconds"] * share_until(theirs, loss))


def share_until(curve: Curve, loss: float) -> float:
    """Share of a training after which its loss has fallen to a value, in straight lines between points."""
    before, above = curve[0]
    for tokens, nats in curve:
        if nats <= loss:
            part = 0.0 if above == nats else (above - loss) / (above - nats)
            return float((before + part * (tokens - before)) / curve[-1][0])
        before, above = tokens, nats
    raise ValueError(f"No point of the curve is at {loss} or below.")


def claims() -> dict[str, Any] | None:
    """The run that was made for this page, with the networks at another rate as a part of it."""
    found = [run for (run,) in rows("claims")]
    whole = next((run for run in found if "seeds" in run), None)
    return whole and whole | {"slow": next(run for run in found if "seeds" not in run)}


def both(trainings: Runs) -> tuple[Runs, Runs]:
    """Trainings of Forward-Forward, and of the twin."""
    return [one for one in trainings if not one["twin"]], [one for one in trainings if one["twin"]]


def fold_of(run: dict[str, Any], part: str) -> Runs:
    """The run as a row names it: with the seeds of one part."""
    return [run | {"seeds": sorted({one["seed"] for one in run[part]})}]


def values(each: Runs, key: str) -> list[float]:
    """One value of several trainings."""
    return [one[key] for one in each]


def gaps(each: Runs) -> list[float]:
    """Validation error above training error."""
    return [one["validation"] - one["train"] for one in each]


def reach(found: list[float]) -> str:
    """Lowest and highest."""
    return f"{min(found):.2f} to {max(found):.2f}"


def images(run: dict[str, Any]) -> str:
    """How long and on what the trainings of the claims were."""
    one = run["seeds"][0]
    return f"{one['epochs']} epochs of {one['images']:,} images of MNIST, those that validate among them"


SEEDS = Table(
    {
        "trained by": lambda each: "backprop" if each[0]["twin"] else "Forward-Forward",
        "training error, %": lambda each: f"{fmean(values(each, 'train')):.2f} ({reach(values(each, 'train'))})",
        "validation error, %": lambda each: (
            f"{fmean(values(each, 'validation')):.2f} ({reach(values(each, 'validation'))})"
        ),
        "gap": lambda each: f"{fmean(gaps(each)):.2f} ({reach(gaps(each))})",
        "standard deviation of validation error": lambda each: f"{stdev(values(each, 'validation')):.2f}",
        "CPU seconds": lambda each: f"{fmean(values(each, 'cpu_seconds')):.0f}",
    }
)


def overfits(run: dict[str, Any]) -> str:
    """The gap between errors on images that were trained with, and on others."""
    ours, twins = both(run["seeds"])
    gap, twin_gap = fmean(gaps(ours)), fmean(gaps(twins))
    sentence = finding(
        "It overfits more",
        verdict="True" if gap > twin_gap else "Not so",
        ff=fmean(values(ours, "validation")),
        twin=fmean(values(twins, "validation")),
        gap=gap,
        twin_gap=twin_gap,
        seeds=len(ours),
        images=images(run),
        layers=ours[0]["depth"],
        width=ours[0]["width"],
    )
    return f"{sentence}\n\n{SEEDS.written((each, fold_of(run, 'seeds')) for each in (ours, twins))}"


GENERALISES = Table(
    {
        "task": lambda row: row.task,
        "Forward-Forward": lambda row: row.cell(row.ours),
        "same network, backprop": lambda row: row.cell(row.twin),
        "behind by": lambda row: f"{round(row.behind(), row.digits) + 0.0:.{row.digits}f}",
        "tier": lambda row: row.tier,
    }
)
NOTABLE = 0.5
"""Points of accuracy; less is not told apart by a single seed of a twin."""


def generalises() -> str:
    """Data never seen: the rows of the README, and how far they are behind."""
    found = list(of_readme())
    percent = sorted((row for row in found if row.digits == 2), key=Row.behind, reverse=True)
    behind = [f"{plain(row)}, by {row.behind():.1f}" for row in percent if row.behind() > NOTABLE]
    sentence = finding(
        "It generalises worse",
        networks=len(percent),
        count=len(behind),
        notable=NOTABLE,
        behind="; ".join(behind),
        others=max(row.behind() for row in percent if row.behind() <= NOTABLE),
    )
    note = (
        f"{FEW} fewer than three seeds, a first look. {JPEG} from a copy in JPEG. The twin of a network that learns "
        "without labels learns from them. [How each was made](../results.md)."
    )
    return f"{sentence}\n\n{GENERALISES.written((row, []) for row in found)}\n\n{note}"


def plain(row: Row) -> str:
    """The task of a row without its unit and mark."""
    return row.task.split(", test ")[0].replace(JPEG, "")


STUCK = 50
"""Percent of error: a network that errs more has not learned."""
SIZES = Table(
    {
        "rate": lambda pair: pair[0].get("lr", "the recipe's"),
        "layers": lambda pair: pair[0]["depth"],
        "units": lambda pair: f"{pair[0]['width']:,}",
        "Forward-Forward, validation error, %": lambda pair: f"{pair[0]['validation']:.2f}",
        "backprop": lambda pair: f"{pair[1]['validation']:.2f}",
        "training errors": lambda pair: f"{pair[0]['train']:.2f} / {pair[1]['train']:.2f}",
        "CPU seconds": lambda pair: f"{pair[0]['cpu_seconds']:.0f} / {pair[1]['cpu_seconds']:.0f}",
    }
)


def pairs(trainings: Runs) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Networks beside their twins."""
    yield from zip(*both(trainings), strict=True)


def scales(run: dict[str, Any]) -> str:
    """Errors over width and over depth."""
    slow = run["slow"]
    widths, depths, slowly = list(pairs(run["width"])), list(pairs(run["depth"])), list(pairs(slow["depth"]))
    names = {"narrow": widths[0], "wide": widths[-1], "flat": depths[0], "deep": depths[-1], "slow": slowly[-1]}
    names["slowflat"] = slowly[0]
    errors = {f"ff_{name}": ours["validation"] for name, (ours, _) in names.items()}
    errors |= {f"twin_{name}": twin["validation"] for name, (_, twin) in names.items()}
    _, learns = [pair for pair in depths if pair[1]["validation"] < STUCK][-1]
    sentence = finding(
        "It does not scale to large networks",
        images=images(run),
        narrow=widths[0][0]["width"],
        wide=widths[-1][0]["width"],
        flat=depths[0][0]["depth"],
        deep=depths[-1][0]["depth"],
        learns=learns["depth"],
        twin_learns=learns["validation"],
        rate=slowly[-1][0]["lr"],
        **errors,
    )
    picture = "![Error over width and over depth](../pictures/claims.png)"
    parts = [(pair, fold_of(run, "width")) for pair in widths] + [(pair, fold_of(run, "depth")) for pair in depths]
    parts += [(pair, fold_of(slow, "depth")) for pair in slowly]
    return "\n\n".join([sentence, picture, SIZES.written(parts)])


def scales_on_text() -> str:
    """The depth of language models: those of the races, and what closes the gap that they leave."""
    found = list(races())
    ends_of = [
        f"at {race.run['ff']:.3f} beside {race.twin['backprop']:.3f} on {race.text()} (arm `{race.run['arm']}`)"
        for race in found
    ]
    closed = next(row for row in of_readme() if "byte-pair" in row.task)
    return finding(
        "On text",
        layers=found[0].run["layers"],
        ends=", ".join(ends_of),
        closed=closed.cell(closed.ours),
        closed_twin=closed.cell(closed.twin),
    )


def minima(run: dict[str, Any]) -> str:
    """Where trainings from several seeds end."""
    ours, twins = both(run["seeds"])
    return finding(
        "It is less bound to local minima",
        seeds=len(ours),
        spread=stdev(values(ours, "validation")),
        twin_spread=stdev(values(twins, "validation")),
        train=reach(values(ours, "train")),
        twin_train=reach(values(twins, "train")),
    )
