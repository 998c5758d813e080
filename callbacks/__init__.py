"""What happens beside training: progress, grids, evaluations, shapes, a report."""

from callbacks.compile_networks import CompileNetworks
from callbacks.evaluation_log import EvaluationLog
from callbacks.progress import RunProgress
from callbacks.report import Report
from callbacks.samples import SampleGrids
from callbacks.shape_writer import ShapeWriter
from callbacks.throughput import Throughput
from callbacks.validation_record import ValidationRecord
from callbacks.wandb_run import WandbRun

__all__ = [
    "CompileNetworks",
    "EvaluationLog",
    "Report",
    "RunProgress",
    "SampleGrids",
    "ShapeWriter",
    "Throughput",
    "ValidationRecord",
    "WandbRun",
]
