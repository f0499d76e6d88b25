"""The page *What is said of Forward-Forward, measured*: its numbers, and that its words fit them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    import tables_claims

    return tables_claims


def test_a_loss_is_reached_on_the_line_between_two_points(tables: ModuleType) -> None:
    curve = [[100, 4.0], [200, 3.0], [400, 1.0]]
    assert tables.share_until(curve, 3.5) == pytest.approx(150 / 400)
    assert tables.share_until(curve, 1.0) == 1.0
    assert tables.share_until(curve, 4.5) == pytest.approx(100 / 400)
    with pytest.raises(ValueError, match="No point"):
        tables.share_until(curve, 0.5)


def test_every_race_is_between_equals(tables: ModuleType) -> None:
    races = list(tables.races())
    assert len(races) >= 3
    for race in races:
        assert race.run["layers"] == race.twin["layers"]
        assert ("--tokens" in race.run["command"]) == ("--tokens" in race.twin["command"])
        assert 0 < race.seconds <= race.run["ff_seconds"]
        assert 0 < race.twin_seconds <= race.twin["backprop_seconds"]


def test_words_fit_the_stored_numbers(tables: ModuleType) -> None:
    low, high = (tables.at_depth(run, depth) for (run,) in tables.rows("memory")[-1:] for depth in tables.ends(run))
    assert high["ff streamed"]["peak_mib"] == pytest.approx(low["ff streamed"]["peak_mib"], rel=0.02)
    assert high["ff streamed"]["total_mib"] < high[tables.BEST]["total_mib"]
    ratios = [run["ratio"] for name in ("step_time", "step_time_gpt") for (run,) in tables.rows(name)]
    assert 1 < sum(ratios) / len(ratios) < 1.5
    behind = sorted(row.behind() for row in tables.of_readme() if row.digits == 2)
    assert behind[0] <= tables.NOTABLE < behind[-1]


def test_words_fit_the_trainings_that_were_made_for_them(tables: ModuleType) -> None:
    run = tables.claims()
    widths, depths = list(tables.pairs(run["width"])), list(tables.pairs(run["depth"]))
    behind = [ours["validation"] - twin["validation"] for ours, twin in widths]
    assert behind[-1] < 0 < behind[0], "more units bring it to its twin"
    slow = list(tables.pairs(run["slow"]["depth"]))
    for found in (depths, slow):
        assert found[0][0]["validation"] < found[-1][0]["validation"], "more layers make it worse"
    assert slow[-1][1]["validation"] < slow[0][1]["validation"], "and not the twin"
    ours, twins = tables.both(run["seeds"])
    assert min(tables.values(ours, "train")) > max(tables.values(twins, "train")), "it fits training images less well"
    for each in (ours, twins):
        errors = tables.values(each, "validation")
        assert max(errors) - min(errors) < 1, "a seed is stuck"
    page = (DOCS / "explanation" / "what_is_said.md").read_text()
    assert all(f"## {title}\n" in page for title in tables.SENTENCES if title.startswith("It "))
    assert (DOCS / "pictures" / "claims.png").is_file()
