"""``metrics.csv``: one row per logged step, written at once, and truncated when a run resumes from an earlier step."""

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from utils.errors import InputError
from utils.files import write_atomically

NAME = ExperimentWriter.NAME_METRICS_FILE


class MetricsCsv(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` directly in a directory and appending to an existing file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: ``config.yaml`` has all hyperparameters."""


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep the existing rows, which the base class would delete."""
        self.metrics_keys, _ = _read(Path(self.metrics_file_path))

    def save(self) -> None:
        try:
            super().save()
        except OSError as error:
            error.filename = error.filename or self.metrics_file_path
            raise

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _write(path, fieldnames, _read(path)[1])


def drop_rows_after(path: Path, step: int) -> None:
    """Drop the rows after ``step`` and an incomplete last row. The resumed run logs them again.

    Raises:
        InputError: the file is not a table with a column ``step``.
    """
    try:
        keys, rows = _read(path)
        kept = [row for row in rows if row["step"] and float(row["step"]) <= step]
    except KeyError as error:
        raise InputError(f"{path} has no column {error} separated by commas; correct it, or move it away") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is corrupt ({error}); correct it, or move it away") from error
    if kept:
        _write(path, keys, kept)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the complete rows, also of a file that a spreadsheet program has saved.

    Raises:
        ValueError: the file is not UTF-8, or a row has more cells than the header.
    """
    if not path.is_file():
        return [], []
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in file if line.endswith(("\n", "\r"))]
    reader = csv.DictReader(lines)
    rows = list(reader)
    if any(None in row for row in rows):
        raise ValueError("a row has more cells than the header")
    return list(reader.fieldnames or []), rows


def _write(path: Path, keys: list[str], rows: list[dict[str, str]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=keys)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
