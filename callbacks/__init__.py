"""Callbacks around training: progress, metrics, sample grids, meshes, throughput, an HTML report, torch.compile."""

from callbacks.html_report import Report
from callbacks.loggers.wandb import WandbRun
from callbacks.metrics_log import EvaluationLog, ValidationRecord
from callbacks.progress_bar import RunProgress
from callbacks.sample_grids import SampleGrids
from callbacks.shape_export import ShapeWriter
from callbacks.throughput import Throughput
from callbacks.torch_compile import CompileNetworks

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
