"""What ``validate`` measured, beside the run's own evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.evaluation_log import METRICS, read_metrics
from renderers.files import write_atomically


class ValidationRecord(pl.Callback):
    """Appends a line to ``metrics.jsonl`` in the folder that ``validate`` writes to, with the keys of the run's own.

    So one run may be measured by several extractors. The same measurement of the same step replaces the earlier.
    """

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.fast_dev_run or trainer.state.fn != "validate":
            return
        folder = Path(trainer.default_root_dir)
        line = {"kimg": module.kimg, "step": module.step, **module.evaluation, "note": module.evaluation_note}
        before = [old for old in read_metrics(folder) if (old["step"], old["note"]) != (line["step"], line["note"])]
        text = "".join(json.dumps(one) + "\n" for one in [*before, line])
        write_atomically(folder / METRICS, lambda path: path.write_text(text) and None)
        print(f"{line['note']}; kept in {folder / METRICS}")
