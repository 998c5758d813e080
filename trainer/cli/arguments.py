"""The options and help of every command, in a module that does not import torch, so that help appears at once.

The function of a command's name returns its parser. Those of ``fit``, ``validate``, ``test`` and ``predict`` only print the
short help; LightningCLI parses their options, and ``--help_all`` prints its full help.
"""

from pathlib import Path

import configs
from trainer.cli.argument_types import (
    FORMATS,
    formats,
    integer,
    integer_ranges,
    number,
    numbers,
    or_none,
    positive,
    seeds,
    shard,
    subset,
    words,
)
from trainer.cli.command_parser import TRUST, CommandParser

RUNS = Path("runs")
EXTRACTORS = ("renders_small", "renders_color", "renders", "imagenet")
RENDERERS = ("opengl", "soft", "absorption", "lit_absorption", "visual_hull", "emission_absorption")
TABLES = sorted(path.stem for path in (configs.FOLDER / "tables").glob("*.yaml") if path.stem != "scales")
FIGURES = {
    "MeshGAN": ("samples", "random", "interpolation", "truncation", "layers"),
    "voxels": ("samples", "normals", "views", "view_normals", "thresholds", "interpolation"),
    "images": ("samples", "interpolation"),
    "the data": ("data", "data_normals"),
}
SHELLS = ("bash", "zsh", "tcsh")

COUNT = integer(1, 10_000)
FRACTION = number(0, 1)


def fit() -> CommandParser:
    parser = _lightning_command(
        "fit",
        "Train a model, or resume a run. Writes runs/<config>/<number>/; --model FILE and --data FILE add their names:\n"
        "runs/<config>_<file>/<number>/. Ctrl-C saves and prints how to resume.",
        (
            "fit --config demo.yaml --data.batch_size=8",
            "fit --config couches.yaml --model model/absorption.yaml",
            "fit --run_dir runs/demo/001 --ckpt_path last",
        ),
        "  --data.total_kimg=50               length of the run in thousands of images\n"
        "  --trainer.max_time=00:08:00:00     at most eight hours (days:hours:minutes:seconds)\n"
        "  --trainer.fast_dev_run=1           one step of each kind, without a run directory",
    )
    parser.add("--run_dir RUN", "where to write, or the run to resume")
    parser.add("--ckpt_path FILE", "start from a checkpoint: a file, or last or best of the run")
    parser.add_flag("--fresh", "move a run in --run_dir aside and start over")
    parser.add_flag("--trust", TRUST)
    parser.add("--checkpoint_minutes M", "minutes between checkpoints (default: 10)")
    parser.add("--monitor METRIC", "best.ckpt follows it, such as mmd or coverage (default: sfid, or else fid or kid)")
    parser.add("--mode MODE", "min or max, for a metric of your own: which of its values is the best")
    parser.add("--keep_checkpoints K", "keep the newest K checkpoints besides the last and the best (default: 0)")
    return parser


EXTRACTOR_OPTION = f"  --model.extractor=NAME             FID's feature extractor: {', '.join(EXTRACTORS)}"


def validate() -> CommandParser:
    parser = _lightning_command(
        "validate",
        "Print a checkpoint's metrics on the validation data.",
        (
            "validate --run_dir runs/demo/001",
            "validate --run_dir runs/demo/001 --model.extractor=imagenet --model.kid_subset=100",
        ),
        EXTRACTOR_OPTION,
    )
    parser.add_run_options()
    return parser


def test() -> CommandParser:
    description = "Print a checkpoint's metrics on the test data."
    parser = _lightning_command("test", description, ("test --run_dir runs/demo/001",), EXTRACTOR_OPTION)
    parser.add_run_options()
    return parser


def predict() -> CommandParser:
    parser = _lightning_command(
        "predict",
        "Write shapes and images from a checkpoint with the run's callbacks; export has more formats.",
        ("predict --run_dir runs/demo/001 --model.samples=32 --model.sample_seed=7",),
        "  --model.samples=N --model.sample_seed=S",
    )
    parser.add_run_options()
    return parser


def _lightning_command(command: str, description: str, examples: tuple[str, ...], options: str) -> CommandParser:
    notes = (
        "Any value of a config is an option as well:",
        options,
        "  --model.ARGUMENT=VALUE, --data.ARGUMENT=VALUE, --trainer.ARGUMENT=VALUE",
        "  --trainer.devices=2 --trainer.accelerator=gpu|cpu --trainer.precision=bf16-mixed",
    )
    first = "--config NAME [--config MORE]" if command == "fit" else "--run_dir RUN"
    usage = f"python -m trainer {command} {first} [--model.ARGUMENT=VALUE] [options]"
    parser = CommandParser(command, description, examples, notes, usage=usage)
    parser.add("--config NAME", "an experiment, in the current directory or in configs/; a second one overrides it")
    parser.add("--model FILE", "another method, such as model/absorption_32.yaml")
    parser.add("--data FILE", "other data, such as data/heads.yaml")
    parser.add("--trainer FILE", "another trainer, such as trainer/plain.yaml")
    parser.add("--seed_everything N", "seed of all random numbers (default: 0)")
    parser.add_flag("--print_config", "print the resulting config and exit")
    parser.add("--model.help CLASS", "list a model's arguments, such as IGGANModule's")
    parser.add("--data.help CLASS", "list a data module's arguments")
    parser.add_flag("--help_all", "list every option, including those of Lightning's Trainer")
    return parser


def fid() -> CommandParser:
    parser = CommandParser(
        "fid",
        "Compare two folders of images by FID, spatial FID, KID, precision, recall, density and coverage.",
        ("fid --real DIR --fake DIR --extractor imagenet --kid_subset 100",),
    )
    folder = "folder of images, subfolders included, ZIP file of images, or cache of renders"
    parser.add("--real DIR", f"the reference: {folder}", required=True)
    parser.add("--fake DIR", "the images to compare with it", required=True)
    default = "default: renders_small, or renders_color if the images have colour"
    parser.add("--extractor NAME", f"{', '.join(EXTRACTORS)} ({default})")
    parser.add("--extractor_weights FILE", "another file of weights for the extractor")
    smaller = "default: 1000, or half of the smaller set if that is less"
    parser.add("--kid_subset N", f"images per subset, 0 for no KID ({smaller})", subset)
    corrupt = "stop at unreadable images, or skip and count them"
    parser.add("--on_corrupt", corrupt, default="raise", choices=("raise", "skip"))
    parser.add_flag("--json", "print one line of JSON")
    return parser


def shapes() -> CommandParser:
    parser = CommandParser(
        "shapes",
        "Compare a run's voxel shapes with held-out ones: coverage, minimum matching distance and 1-NN accuracy by\n"
        "Chamfer distance, and the IoU with the nearest training shape. Training shapes are measured as a baseline.\n"
        "Shapes are rotated by multiples of 90°: first all by the same one, then each by its own.\n"
        "--data.ARGUMENT=VALUE changes the run's data, such as their location.",
        ("shapes --run_dir runs/demo/001", "shapes --run_dir runs/demo/001 --count 50 --json"),
    )
    parser.add_run_options()
    parser.add("--count N", "shapes of each kind (default: 100, or all held-out shapes if they are fewer)", COUNT)
    parser.add("--points N", "points per surface", COUNT, 1024)
    parser.add_flag("--json", "print the metrics as JSON")
    return parser


def table() -> CommandParser:
    parser = CommandParser(
        "table",
        "Run the experiments of a table and print it, next to the published numbers for a table of the papers.\n\n"
        f"The tables are {', '.join(TABLES)}, or a file of your own\n(configs/tables has examples).",
        (
            "table table1 --root ShapeNetCore.v2 --extractor_weights renders.pt",
            "table table1 --scale small --archive modelnet10_voxels_32.npz --only _one --kimg 10",
            "table table4 --root ShapeNetCore.v2 --commands > commands.txt",
            "table table2 --scale small --gather",
            "table sweeps/r1_gamma_table.yaml --scale small --seeds 1,2 --gather --from runs/sweep",
        ),
        ("Options after -- are passed to every fit: -- --trainer.devices=2 --data.batch_size=16",),
    )
    parser.add_argument("name", metavar="NAME", help="the table, such as table1")
    parser.add("--scale", "small: 32³ voxels, 64² images, short", default="full", choices=("full", "small"))
    parser.add("--root DIR", "ShapeNetCore, for full scale (default: ShapeNetCore.v2)")
    parser.add("--archive FILE", "voxels for small scale (default: procedural shapes)")
    parser.add("--kimg N", "length of each run in thousands of images", positive)
    parser.add(
        "--only PATTERN", "only the cell of this name, or cells whose names contain it (* is any text)", action="append"
    )
    parser.add("--seeds A,B", "one run per seed", seeds, "0")
    parser.add("--extractor", "default: that of the table or the scale", choices=EXTRACTORS)
    parser.add("--extractor_weights FILE", "weights for the extractor")
    parser.add("--runs DIR", "where the runs are", Path, RUNS / "tables")
    found = "with --gather: a directory of other runs, such as a sweep's, which are recognized by their options"
    parser.add("--from DIR", found, Path, dest="found_in")
    parser.add_flag("--trust", TRUST)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--commands", action="store_true", help="print the missing commands, one line per cell, and exit")
    mode.add_argument("--gather", action="store_true", help="write the table of the existing runs and exit")
    return parser


def export() -> CommandParser:
    parser = CommandParser(
        "export",
        "Write samples of a run as 3D files, and report which of them are closed.\n\n"
        "In all files y is up, z points toward the viewer, and the origin is the centre. The unit is the metre (as in\n"
        "glTF): voxels fill the cube [-1/2, 1/2]³, images show [-1, 1]². Sample i of a seed is the same as predict's.",
        (
            "export --run_dir runs/demo/001 --seeds 0-7 --formats glb,stl",
            "export --run_dir runs/demo/001 --seeds 3 --decimate 2000 --turntable gif",
            "export --run_dir runs/heads/001 --seeds 1,5 --truncation 0.5",
        ),
    )
    parser.add_run_options()
    parser.add("--seeds LIST", "samples, as 0-7 or 1,5", integer_ranges, "0-7")
    parser.add("--sample_seed S", "another series of samples (default: the run's, 0)", integer(0))
    truncation = (
        "truncation toward the mean shape: of MeshGAN's styles (default: the run's), of other latents (default: 1)"
    )
    parser.add("--truncation PSI", truncation, FRACTION)
    parser.add("--threshold T", "voxels above it are occupied (default: the run's, 0.5)", FRACTION)
    kinds = f"of {','.join(FORMATS)}; binvox is for voxels; npz has a sample's arrays"
    parser.add("--formats LIST", kinds, formats, "glb,obj")
    parser.add("--decimate FACES", "maximum number of faces per mesh, 4 or more, for voxels only", integer(4))
    parser.add("--turntable", "also a video of each shape turning once", choices=("gif", "mp4"))
    parser.add("--frames N", "frames of the video, 25 per second", COUNT, 48)
    parser.add("--film_size PIXELS", "size of the video", COUNT, 256)
    parser.add("--elevation DEGREES", "elevation of the video's camera", number(-360, 360), 20.0)
    parser.add("--output DIR", "where to write (default: RUN/export)", Path)
    parser.add_flag("--json", "print the report as JSON; DIR/report.json always has it")
    return parser


def publish() -> CommandParser:
    parser = CommandParser(
        "publish",
        "Write the generator of a run as one file: its EMA weights in half precision, its config without optimizers, and\n"
        "where it comes from. All other commands with --run_dir, except fit, read it. It holds tensors and text only.",
        (
            "publish --run_dir runs/demo/001 --out chairs.pt",
            "publish --run_dir runs/heads/001 --ckpt_path best --out heads.pt",
            "view --run_dir chairs.pt",
        ),
    )
    parser.add("--run_dir RUN", "a run created by fit")
    parser.add("--ckpt_path FILE", "another checkpoint than the last: a file, or last or best of the run")
    parser.add("--out FILE", "where to write", Path, required=True)
    parser.add_flag("--trust", TRUST)
    return parser


def invert() -> CommandParser:
    parser = CommandParser(
        "invert",
        "Find the shape and the viewpoint of an image: the generator's latent and the camera are optimized through a\n"
        "differentiable renderer, and OpenGL verifies the result. Writes a GLB, an image, a film and the viewpoint of each\n"
        "image, and a table of all. The same command continues where it stopped.\n"
        "--data.ARGUMENT=VALUE changes the run's data, such as their location.",
        (
            "invert --run_dir runs/demo/001 --images photos/ --masks masks/ --steps 100",
            "invert --run_dir runs/demo/001 --images chair.png --fill 0.5",
            "invert --run_dir runs/demo/001 --held_out 100 --film none",
        ),
        (
            "The silhouette of an image is its mask, its alpha channel, or what differs from a border of one colour;",
            "without any of them, only colours are compared.",
        ),
    )
    parser.add_run_options()
    parser.add("--images PATH", "an image, or a folder or ZIP file of images", Path)
    parser.add(
        "--held_out N", "instead: invert the first N held-out shapes of the run's data, and compare with them", COUNT
    )
    parser.add("--masks DIR", "a mask of each image, of the same name and size; white is the object", Path)
    parser.add("--views FILE", "CSV with name,azimuth,elevation in degrees: viewpoints that are known", Path)
    parser.add_flag("--known_views", "with --held_out: use the true viewpoints")
    parser.add("--fill F", "scale and centre the object: its longer side as a fraction of the image", number(0.05, 1))
    parser.add("--steps N", "steps of optimization", COUNT, 100)
    parser.add("--starts N", "starting viewpoints of each image, optimized together", integer(1, 64), 8)
    parser.add("--samples N", "samples that the starts are chosen from", COUNT, 256)
    parser.add("--batch N", "images optimized together", COUNT, 8)
    renderer = (
        "lit: the exact shaded volume renderer; own: what the run was trained through (default: lit, own with colour)"
    )
    parser.add("--renderer", renderer, choices=("lit", "own"))
    parser.add(
        "--film", "film of each optimization, then a turn of the shape", default="gif", choices=("gif", "mp4", "none")
    )
    corrupt = "stop at unusable images, or skip and name them"
    parser.add("--on_corrupt", corrupt, default="raise", choices=("raise", "skip"))
    parser.add("--output DIR", "where to write (default: RUN/inversions)", Path)
    parser.add_flag("--json", "print the report as JSON; DIR/report.json always has it")
    return parser


def export_extractor() -> CommandParser:
    parser = CommandParser(
        "export-extractor",
        "Write the weights of a trained classifier as FID's feature extractor.\n\n"
        "With FILE: for --extractor_weights and extractor_weights. Without FILE: RUN is of extractor.yaml or\n"
        "extractor_color.yaml, and its weights replace those of renders_small or renders_color in the package, in half\n"
        "precision.",
        ("export-extractor runs/extractor_renders/001 renders.pt",),
        usage="python -m trainer export-extractor RUN [FILE]",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of the classifier")
    parser.add_flag("--trust", "follow links in the run to files outside of it, see docs/trust.md")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="where to write the weights")
    return parser


def view() -> CommandParser:
    parser = CommandParser(
        "view",
        "Open an interactive 3D viewer of a checkpoint's samples in the browser: sample, interpolate, rotate.\n\n"
        "The page is reachable from this machine only, unless --host is given, and needs no network. Ctrl-C stops it.",
        (
            "view --run_dir runs/demo/001",
            "view --run_dir runs/heads/001 --ckpt_path best --port 0",
            "view --run_dir runs/demo/001 --host 0.0.0.0     # reachable from other machines",
        ),
    )
    parser.add_run_options()
    parser.add("--host ADDRESS", "address to listen on", default="127.0.0.1")
    parser.add("--port N", "0 takes a free one", integer(0, 65535), 8008)
    return parser


def figures() -> CommandParser:
    kinds = [f"  of {kind:<12}{', '.join(names)}" for kind, names in FIGURES.items()]
    parser = CommandParser(
        "figures",
        "Render the papers' figures of a trained model and its data as PNG, with captions.md.\n\n"
        "Samples have numbers: sample i of a seed is that of predict and export.",
        (
            "figures --run_dir runs/heads/001 --numbers 0,3,7,12",
            "figures --run_dir runs/heads/001 --only truncation --psi=1,0.5,0,-0.5 --truncation_cutoff none",
            "figures --run_dir runs/chairs/001 --zoom 2 --data.shapes.root=/data/ShapeNetCore.v2",
            "figures --run_dir runs/demo/001 --only samples,normals --azimuth 30 --elevation 20",
            "figures --config demo.yaml --only data,data_normals --output figures",
        ),
        ("figures:", *kinds, "", "--data.ARGUMENT=VALUE changes the run's config, such as the location of the data."),
        usage="python -m trainer figures --run_dir RUN [options]",
    )
    parser.add_run_options()
    parser.add(
        "--config NAME",
        "instead of a run: a config, for figures of its data only; a second one overrides it",
        action="append",
    )
    parser.add("--only LIST", "the figures to render (default: all)", words)
    parser.add("--output DIR", "where to write (default: RUN/figures)", Path)
    parser.add("--numbers LIST", "samples, in figures with one sample per row, as 0,3,7 or 0-5", integer_ranges)
    parser.add("--rows N", "rows of grids", COUNT, 6)
    parser.add("--columns N", "columns of grids", COUNT, 8)
    parser.add("--sample_seed S", "seed of samples and views", integer(0), 0)
    parser.add("--size PIXELS", "size of each image", COUNT, 128)
    parser.add("--azimuth DEG", "of all rows of voxel grids (default: random per row)", number(-360, 360))
    parser.add("--elevation DEG", "of all rows of voxel grids (default: random per row)", number(-90, 90))
    parser.add("--zoom Z", "zoom into the centre, for voxels", number(1), 1.0)
    parser.add("--psi LIST", "columns of the truncation figure", numbers, "1,0.7,0.5,0.2,0,-0.5")
    parser.add("--truncation PSI", "of MeshGAN, or none (default: the run's)", or_none(FRACTION))
    cutoff = "truncate MeshGAN's layers below it; none: all (default: the run's)"
    parser.add("--truncation_cutoff LAYER", cutoff, or_none(integer(0)))
    return parser


def prepare() -> CommandParser:
    parser = CommandParser(
        "prepare",
        "Render and cache the images that a config's data need, as fit would do before its first step.\n\n"
        "With --shard I/N only one of N parts, so that several machines fill one cache. Cached images are not rendered\n"
        "again.",
        (
            "prepare --config chairs.yaml --data.shapes.root=/data/ShapeNetCore.v2",
            "prepare --config chairs.yaml --shard 3/64",
        ),
    )
    parser.add(
        "--config NAME", "an experiment, such as chairs.yaml; a second one overrides it", required=True, action="append"
    )
    parser.add("--data FILE", "other data, such as data/lvp.yaml")
    parser.add("--model FILE", "another method, where the data depend on it")
    parser.add("--seed_everything N", "seed of all random numbers (default: the config's)")
    parser.add_flag("--trust", TRUST)
    parser.add("--shard I/N", "part I of N, counted from 1", shard, "1/1")
    return parser


def render() -> CommandParser:
    parser = CommandParser(
        "render",
        "Render meshes, voxels or the shapes of a config as PNG.\n\n"
        "Inputs are meshes (glb, gltf, obj, ply, stl, off), binvox, npz (an export, or an array of voxels [z, y, x]), or a\n"
        "config whose data have shapes (--data.ARGUMENT=VALUE changes it). Inputs that the renderer does not accept are\n"
        "converted: voxels to a surface mesh, meshes to voxels.",
        (
            "render chair.glb --views 8",
            "render chair.stl --fit --up z --azimuth 30 --elevation 20 --normals --depth",
            "render shapes/0000.binvox --renderer absorption --image_size 128",
            "render chairs_modelnet.yaml --shapes 0-3 --renderer soft",
        ),
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="files or configs")
    parser.add("--renderer", "renderer", default="opengl", choices=RENDERERS)
    parser.add("--backend NAME", "opengl: pyrender, moderngl; the others: auto, torch, numba, triton")
    parser.add("--views N", "number of azimuths around the shape (default: 1)", COUNT)
    parser.add("--azimuth LIST", "degrees, as 0,45,90, instead of --views", lambda text: list(numbers(text)))
    parser.add("--elevation DEGREES", "elevation of the camera", number(-360, 360), 20.0)
    parser.add("--fov DEGREES", "field of view of a perspective camera (default: orthographic)", float)
    parser.add("--image_size PIXELS", "size of the images", COUNT, 256)
    parser.add("--voxel_size D", "voxels per side for meshes that are voxelized", integer(1), 64)
    parser.add("--threshold T", "voxels above it are occupied", FRACTION, 0.5)
    parser.add("--up", "up axis of mesh files", default="y", choices=("y", "z"))
    parser.add_flag("--fit", "move and scale meshes into the cube [-0.45, 0.45]³")
    parser.add("--shapes LIST", "shapes of a config, as 0-3", integer_ranges, "0-3")
    parser.add_flag("--unlit", "colours without shading, as for textures that include lighting")
    parser.add_flag("--normals", "also *_normals.png, (n + 1) / 2 in the camera's frame")
    parser.add_flag("--depth", "also *_depth.png and *_depth.npy (world units, inf: empty)")
    parser.add_flag("--trust", TRUST)
    parser.add("--output DIR", "where to write", Path, Path("renders"))
    return parser


def compare() -> CommandParser:
    parser = CommandParser(
        "compare",
        "Compare runs on one page: a table, curves, samples and the differences of their configs.",
        ("compare runs/demo/001 runs/demo/002", "compare runs/tables/table1_small/* --output table1.html"),
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories")
    parser.add("--output FILE", "where to write", Path, Path("compare.html"))
    parser.add_flag("--trust", "follow links in the runs to files outside of them, see docs/trust.md")
    parser.add_flag("--json", "print the table as JSON")
    return parser


def doctor() -> CommandParser:
    parser = CommandParser(
        "doctor",
        "Check what works on this machine, and print how to fix what does not.\n\n"
        "Exit status: 0 if training works here, at least on the CPU; 1 if something prevents it; 2 for invalid options.",
        ("doctor", "doctor --config chairs.yaml"),
    )
    parser.add_argument("--config", metavar="NAME", action="append", default=[], help="also check this config's data")
    parser.add_flag("--trust", TRUST)
    parser.add_flag("--json", "print one line of JSON")
    return parser


def completion() -> CommandParser:
    parser = CommandParser(
        "completion",
        "Print a shell script that completes the command unrender, which is the same as python -m trainer.",
        notes=("in ~/.bashrc:", "  source <(unrender completion bash)"),
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser
