from __future__ import annotations

from pathlib import Path

from ff_lightning.callbacks import BlockTable, RunRecord
from ff_lightning.data import ImageDataModule
from ff_lightning.report.records import read_record
from tests.training import classifier, trainer


def test_a_record_says_how_and_what(tmp_path: Path) -> None:
    data = ImageDataModule("digits", batch_size=700)
    module = classifier(depth=2)
    run = trainer(tmp_path, callbacks=[RunRecord("ff-lightning fit --config x.yaml"), BlockTable()])
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    record = read_record(tmp_path)
    assert record["run"]["command"] == "ff-lightning fit --config x.yaml"
    assert record["run"]["parameters"] == sum(p.numel() for p in module.parameters())
    assert record["run"]["updates"] == run.global_step > 0
    assert record["tables"]["fit"]["rows"][-1][0] == "readout"
    whole = record["run"]["seconds"]

    again = trainer(tmp_path, callbacks=[RunRecord("another"), BlockTable()], max_epochs=2)
    again.fit(classifier(depth=2), data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    resumed = read_record(tmp_path)["run"]
    assert resumed["command"] == "ff-lightning fit --config x.yaml"
    assert resumed["seconds"] > whole, "with what was trained before the stop"
    assert (resumed["resumed_at"], resumed["updates"]) == (run.global_step, again.global_step)


def test_tables_alone_begin_no_record(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[BlockTable()]).fit(classifier(depth=1), ImageDataModule("digits", batch_size=700))
    assert not (tmp_path / "run.json").exists()
