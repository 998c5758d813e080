"""The short help of LightningCLI's commands. It parses nothing: LightningCLI does, and ``--help_all`` prints its own."""

from trainer.cli.argument_types import EXTRACTORS
from trainer.cli.command_parser import CommandParser, run_options

EXTRACTOR = "  --model.extractor=NAME             what FID compares: " + ", ".join(EXTRACTORS)


def _experiment(command: str, description: str, examples: tuple[str, ...], more: str) -> CommandParser:
    parser = CommandParser(
        command,
        description,
        epilog="\n".join(
            [
                "Any value of a config is an option as well:",
                more,
                "  --model.ARGUMENT=VALUE, --data.ARGUMENT=VALUE, --trainer.ARGUMENT=VALUE",
                "  --trainer.max_time=00:08:00:00     at most eight hours (days:hours:minutes:seconds)",
                "  --trainer.devices=2 --trainer.accelerator=gpu|cpu --trainer.precision=bf16-mixed",
                "  --trainer.fast_dev_run=1           one step of everything, leaving nothing behind",
                "",
                "examples:",
                *(f"  python -m trainer {line}" for line in examples),
            ]
        ),
        usage=f"python -m trainer {command} --config NAME [--config MORE] [--model.ARGUMENT=VALUE] [options]",
    )
    parser.add_argument(
        "--config", metavar="NAME", help="an experiment, beside you or in configs/; a second lies over it"
    )
    parser.add_argument("--model", metavar="FILE", help="another method, such as model/absorption_32.yaml")
    parser.add_argument("--data", metavar="FILE", help="other data, such as data/heads.yaml")
    parser.add_argument("--trainer", metavar="FILE", help="another trainer, such as trainer/plain.yaml")
    parser.add_argument("--seed_everything", metavar="N", help="of all that is random (0)")
    parser.add_argument("--print_config", action="store_true", help="print the config that results, and stop")
    parser.add_argument("--model.help", metavar="CLASS", help="list a model's arguments, such as IGGANModule's")
    parser.add_argument("--data.help", metavar="CLASS", help="list a data module's arguments")
    parser.add_argument("--help_all", action="store_true", help="list every option, those of Lightning's Trainer too")
    return parser


def fit() -> CommandParser:
    parser = _experiment(
        "fit",
        "Train, or continue a training. Writes runs/<config>/<number>/; Ctrl-C saves and says how to go on.",
        (
            "fit --config demo.yaml --data.batch_size=8",
            "fit --config couches.yaml --model model/absorption.yaml",
            "fit --run_dir runs/demo/001 --ckpt_path last",
        ),
        "  --data.total_kimg=50               length of the run in thousand images",
    )
    parser.add_argument("--run_dir", metavar="RUN", help="where to write, or the run to continue")
    parser.add_argument(
        "--ckpt_path", metavar="FILE", help="start from a checkpoint: a file, or last or best of the run"
    )
    parser.add_argument("--fresh", action="store_true", help="move a run that is in --run_dir aside and start anew")
    parser.add_argument("--checkpoint_minutes", metavar="M", help="minutes between two checkpoints (10)")
    parser.add_argument("--keep_checkpoints", metavar="K", help="keep the newest K besides the last and the best (0)")
    return parser


def _evaluation(command: str, description: str, examples: tuple[str, ...], more: str) -> CommandParser:
    parser = _experiment(command, description, examples, more)
    run_options(parser)
    return parser


def validate() -> CommandParser:
    return _evaluation(
        "validate",
        "Print a checkpoint's metrics on the validation data.",
        (
            "validate --run_dir runs/demo/001",
            "validate --run_dir runs/demo/001 --model.extractor=imagenet --model.kid_subset=100",
        ),
        EXTRACTOR,
    )


def test() -> CommandParser:
    return _evaluation(
        "test",
        "Print a checkpoint's metrics on the test data.",
        ("test --run_dir runs/demo/001",),
        EXTRACTOR,
    )


def predict() -> CommandParser:
    return _evaluation(
        "predict",
        "Write shapes and images from a checkpoint, by the run's own callbacks; export offers more formats.",
        ("predict --run_dir runs/demo/001 --model.samples=32 --model.sample_seed=7",),
        "  --model.samples=N --model.sample_seed=S",
    )
