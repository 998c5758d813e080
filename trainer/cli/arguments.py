"""The options of every command that is not LightningCLI's, apart from what it does: help must not wait for torch."""

from pathlib import Path

import configs
from trainer.cli.argument_types import (
    EXTRACTORS,
    FORMATS,
    count,
    degrees,
    different,
    formats,
    fraction,
    numbers,
    or_none,
    port,
    positive,
    psi_list,
    shard,
    subset,
    whole,
    words,
    zoom,
)
from trainer.cli.command_parser import CommandParser, run_options

RUNS = Path("runs")
RENDERERS = ("opengl", "soft", "absorption", "visual_hull", "emission_absorption")
TABLES = sorted(path.stem for path in (configs.FOLDER / "tables").glob("table*.yaml"))
FIGURES = {
    "MeshGAN": ("samples", "random", "interpolation", "truncation"),
    "voxels": ("samples", "normals", "views", "view_normals", "thresholds", "interpolation"),
    "images": ("samples", "interpolation"),
    "the data": ("data", "data_normals"),
}
SHELLS = ("bash", "zsh", "tcsh")


def fid() -> CommandParser:
    parser = CommandParser(
        "fid",
        "Compare two folders of images by FID and KID.",
        ("fid --real DIR --fake DIR --extractor imagenet --kid_subset 100",),
    )
    folder = "folder of png and jpg files, also in folders within, or a cache of renders"
    parser.add_argument("--real", metavar="DIR", required=True, help=f"the reference: {folder}")
    parser.add_argument("--fake", metavar="DIR", required=True, help="what is compared with it")
    parser.add_argument(
        "--extractor", metavar="NAME", default=EXTRACTORS[0], help=f"{', '.join(EXTRACTORS)} (default: %(default)s)"
    )
    parser.add_argument("--extractor_weights", metavar="FILE", help="another file of weights for the extractor")
    parser.add_argument(
        "--kid_subset", metavar="N", type=subset, default=1000, help="images a subset, 0 for FID alone (%(default)s)"
    )
    parser.add_argument(
        "--on_corrupt",
        choices=("raise", "skip"),
        default="raise",
        help="images that cannot be read are refused, or left out and counted (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def shapes() -> CommandParser:
    parser = CommandParser(
        "shapes",
        "Compare a run's voxel shapes with held-out ones: coverage, minimum matching distance and 1-NN accuracy by\n"
        "Chamfer distance, and the IoU with the nearest training shape. Training shapes stand beside as the yardstick.\n"
        "--data.ARGUMENT=VALUE changes the run's data, such as where they lie.",
        ("shapes --run_dir runs/demo/001", "shapes --run_dir runs/demo/001 --count 50 --json"),
    )
    run_options(parser)
    parser.add_argument("--count", metavar="N", type=count, default=100, help="shapes of each kind (%(default)s)")
    parser.add_argument("--points", metavar="N", type=count, default=1024, help="on a surface (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def table() -> CommandParser:
    lines = (
        "table table1 --root ShapeNetCore.v2 --extractor_weights renders.pt",
        "table table1 --scale small --archive modelnet10_voxels_32.npz --only _one --kimg 10",
        "table table4 --root ShapeNetCore.v2 --commands > commands.txt",
        "table table2 --scale small --gather",
    )
    extra = "What stands after -- goes to every fit: -- --trainer.devices=2 --data.batch_size=16"
    parser = CommandParser(
        "table",
        "Run and gather a table of the papers, beside their figures.\n\n"
        f"The tables are {', '.join(TABLES)}, or a file of your own (configs/tables shows how).",
        epilog="\n".join([extra, "", "examples:", *(f"  python -m trainer {line}" for line in lines)]),
    )
    parser.add_argument("name", metavar="NAME", help="the table, such as table1")
    parser.add_argument(
        "--scale", choices=("full", "small"), default="full", help="small: 32³, 64², short (%(default)s)"
    )
    parser.add_argument("--root", metavar="DIR", help="ShapeNetCore, for full scale (default: ShapeNetCore.v2)")
    parser.add_argument("--archive", metavar="FILE", help="voxels for small scale; without it, procedural shapes")
    parser.add_argument("--kimg", metavar="N", type=positive, help="length of each run, thousand images")
    parser.add_argument("--only", metavar="PATTERN", action="append", help="cells whose names hold it (* matches any)")
    parser.add_argument("--seeds", metavar="A,B", type=different, default=[0], help="one run each (default: 0)")
    parser.add_argument("--extractor", choices=EXTRACTORS, help="default: the table's, or the scale's")
    parser.add_argument("--extractor_weights", metavar="FILE", help="weights for the extractor")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=RUNS / "tables", help="(default: %(default)s)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--commands", action="store_true", help="print what is missing, a line a cell, and run nothing"
    )
    instead.add_argument("--gather", action="store_true", help="write the table of what there is, and run nothing")
    return parser


def export() -> CommandParser:
    parser = CommandParser(
        "export",
        "Write samples of a run as 3D files, and say of each whether it is closed.\n\n"
        "Every file has y up and z toward the viewer, the origin in the middle; the unit is the metre (glTF's): voxels\n"
        "fill the cube [-1/2, 1/2]³, images show [-1, 1]². Sample i of a seed is the same as predict's.",
        (
            "export --run_dir runs/demo/001 --seeds 0-7 --formats glb,stl",
            "export --run_dir runs/demo/001 --seeds 3 --decimate 2000 --turntable gif",
            "export --run_dir runs/heads/001 --seeds 1,5 --truncation 0.5",
        ),
    )
    run_options(parser)
    parser.add_argument("--seeds", metavar="LIST", type=numbers, default=range(8), help="samples, as 0-7 or 1,5 (0-7)")
    parser.add_argument("--sample_seed", metavar="S", type=whole, help="another series of samples (the run's, 0)")
    parser.add_argument(
        "--truncation",
        metavar="PSI",
        type=fraction,
        help="toward the mean shape, 0 to 1: of MeshGAN's styles (the run's), of other latents (1)",
    )
    parser.add_argument("--threshold", metavar="T", type=fraction, help="what counts as occupied (the run's, 0.5)")
    parser.add_argument(
        "--formats",
        metavar="LIST",
        type=formats,
        default=("glb", "obj"),
        help=f"of {','.join(FORMATS)} (glb,obj); binvox is for voxels; npz holds a sample's arrays as they are",
    )
    parser.add_argument("--decimate", metavar="FACES", type=whole, help="at most so many faces a mesh, of voxels only")
    parser.add_argument("--turntable", choices=("gif", "mp4"), help="also a film of each shape turning once")
    parser.add_argument("--frames", metavar="N", type=whole, default=48, help="of the film (%(default)s), 24 a second")
    parser.add_argument("--film_size", metavar="PIXELS", type=whole, default=256, help="of the film (%(default)s)")
    parser.add_argument("--elevation", metavar="DEGREES", type=float, default=20.0, help="of the film (%(default)s)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where to write (RUN/export)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON; DIR/report.json has it always")
    return parser


def export_extractor() -> CommandParser:
    parser = CommandParser(
        "export-extractor",
        "Write the weights of a trained classifier as FID's feature extractor.\n\n"
        "With FILE: for --extractor_weights and extractor_weights. Without FILE: RUN is of extractor.yaml, and its\n"
        "weights replace those of renders_small in the package, in half precision.",
        ("export-extractor runs/extractor_renders/001 renders.pt",),
        usage="python -m trainer export-extractor RUN [FILE]",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of the classifier")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="where to write the weights")
    return parser


def view() -> CommandParser:
    parser = CommandParser(
        "view",
        "Show what a checkpoint generates on a page in the browser: draw samples, go from one to another, turn them.\n\n"
        "The page is this machine's alone unless --host says otherwise, and needs no network. Ctrl-C ends it.",
        (
            "view --run_dir runs/demo/001",
            "view --run_dir runs/heads/001 --ckpt_path best --port 0",
            "view --run_dir runs/demo/001 --host 0.0.0.0     # for everybody who reaches this machine",
        ),
    )
    run_options(parser)
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on (%(default)s)")
    parser.add_argument("--port", metavar="N", type=port, default=8008, help="0 takes a free one (%(default)s)")
    return parser


def figures() -> CommandParser:
    lines = (
        "figures --run_dir runs/heads/001 --numbers 0,3,7,12",
        "figures --run_dir runs/heads/001 --only truncation --psi=1,0.5,0,-0.5 --truncation_cutoff none",
        "figures --run_dir runs/chairs/001 --zoom 2 --data.shapes.root=/data/ShapeNetCore.v2",
        "figures --config demo.yaml --only data,data_normals --output figures",
    )
    kinds = [f"  of {kind:<12}{', '.join(names)}" for kind, names in FIGURES.items()]
    more = "Options that begin with --data. change the run's config, such as where the data are now."
    parser = CommandParser(
        "figures",
        "Draw the papers' figures of a trained model and its data, as PNG, with captions.md.\n\n"
        "Samples go by number: sample i of a seed is that of predict and export.",
        usage="python -m trainer figures --run_dir RUN [options]",
        epilog="\n".join(["figures:", *kinds, "", more, "", "examples:", *(f"  python -m trainer {x}" for x in lines)]),
    )
    run_options(parser)
    parser.add_argument("--config", metavar="NAME", help="instead of a run: a config, for figures of its data alone")
    parser.add_argument("--only", metavar="LIST", type=words, help="the figures to draw (all)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where to write (RUN/figures)")
    parser.add_argument(
        "--numbers", metavar="LIST", type=numbers, help="samples, where a row shows one, as 0,3,7 or 0-5"
    )
    parser.add_argument("--rows", metavar="N", type=count, default=6, help="(%(default)s)")
    parser.add_argument("--columns", metavar="N", type=count, default=8, help="of grids (%(default)s)")
    parser.add_argument("--sample_seed", metavar="S", type=whole, default=0, help="of samples and views (%(default)s)")
    parser.add_argument("--size", metavar="PIXELS", type=count, default=128, help="of each image (%(default)s)")
    parser.add_argument("--zoom", metavar="Z", type=zoom, default=1.0, help="into the middle, of voxels (%(default)g)")
    psis = (1.0, 0.7, 0.5, 0.2, 0.0, -0.5)
    shown = ",".join(f"{psi:g}" for psi in psis)
    parser.add_argument("--psi", metavar="LIST", type=psi_list, default=psis, help=f"truncation's columns ({shown})")
    parser.add_argument("--truncation", metavar="PSI", type=or_none(fraction), help="of MeshGAN, or none (the run's)")
    cutoff = "truncate MeshGAN's layers below it; none: all (the run's)"
    parser.add_argument("--truncation_cutoff", metavar="LAYER", type=or_none(whole), help=cutoff)
    return parser


def prepare() -> CommandParser:
    parser = CommandParser(
        "prepare",
        "Draw the images that a config's data need, and keep them, as fit would before its first step.\n\n"
        "With --shard i/n one part of n, so that many machines fill one cache; what is there is not drawn again.",
        (
            "prepare --config chairs.yaml --data.init_args.shapes.init_args.root=/data/ShapeNetCore.v2",
            "prepare --config chairs.yaml --shard 3/64",
        ),
    )
    parser.add_argument("--config", metavar="NAME", required=True, help="an experiment, such as chairs.yaml")
    parser.add_argument("--data", metavar="FILE", help="other data, such as data/lvp.yaml")
    parser.add_argument("--model", metavar="FILE", help="another method, where the data depend on it")
    parser.add_argument("--shard", metavar="I/N", type=shard, default=(1, 1), help="the I-th of N parts, from 1 (1/1)")
    return parser


def render() -> CommandParser:
    parser = CommandParser(
        "render",
        "Draw meshes, voxels or the shapes of a config by any renderer, as PNG.\n\n"
        "Meshes (glb, gltf, obj, ply, stl, off), binvox, npz (an export, or an array of voxels [z, y, x]), or a config\n"
        "whose data have shapes (--data.ARGUMENT=VALUE changes it). What the renderer does not take is converted: voxels\n"
        "to their surface, meshes to voxels.",
        (
            "render chair.glb --views 8",
            "render chair.stl --fit --up z --azimuth 30 --elevation 20 --normals --depth",
            "render shapes/0000.binvox --renderer absorption --image_size 128",
            "render chairs_modelnet.yaml --shapes 0-3 --renderer soft",
        ),
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="files, or configs")
    parser.add_argument("--renderer", choices=RENDERERS, default="opengl", help="(%(default)s)")
    parser.add_argument(
        "--backend", metavar="NAME", help="opengl: pyrender, moderngl; the others: auto, torch, numba, triton"
    )
    parser.add_argument("--views", metavar="N", type=whole, help="so many azimuths all around (1)")
    parser.add_argument("--azimuth", metavar="LIST", type=degrees, help="degrees, as 0,45,90, instead of --views")
    parser.add_argument("--elevation", metavar="DEGREES", type=float, default=20.0, help="(%(default)s)")
    parser.add_argument("--fov", metavar="DEGREES", type=float, help="of a perspective camera; without, orthographic")
    parser.add_argument("--image_size", metavar="PIXELS", type=whole, default=256, help="(%(default)s)")
    parser.add_argument("--voxel_size", metavar="D", type=whole, default=64, help="voxels a mesh becomes (%(default)s)")
    parser.add_argument("--threshold", metavar="T", type=fraction, default=0.5, help="what is occupied (%(default)s)")
    parser.add_argument("--up", choices=("y", "z"), default="y", help="of mesh files (%(default)s)")
    parser.add_argument("--fit", action="store_true", help="move and scale meshes into the cube [-0.45, 0.45]³")
    parser.add_argument("--shapes", metavar="LIST", type=numbers, default=range(4), help="of a config, as 0-3 (0-3)")
    parser.add_argument("--unlit", action="store_true", help="colours alone, as of textures that have light in them")
    parser.add_argument("--normals", action="store_true", help="also *_normals.png, (n + 1) / 2 in the camera's frame")
    parser.add_argument(
        "--depth", action="store_true", help="also *_depth.png and *_depth.npy (world units, inf: empty)"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("renders"), help="(%(default)s)")
    return parser


def compare() -> CommandParser:
    parser = CommandParser(
        "compare",
        "Put runs side by side: a table, curves, samples and where their configs differ, on one page.",
        ("compare runs/demo/001 runs/demo/002", "compare runs/tables/table1_small/* --output table1.html"),
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders that fit made")
    parser.add_argument("--output", metavar="FILE", type=Path, default=Path("compare.html"), help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser


def doctor() -> CommandParser:
    parser = CommandParser(
        "doctor",
        "Say what works on this machine, and the cure for what does not.\n\n"
        "Exit status: 0 if a training can run here, on the CPU at least; 1 if something stands in its way; 2 for options\n"
        "that do not fit.",
        ("doctor", "doctor --config chairs.yaml"),
    )
    parser.add_argument("--config", metavar="NAME", action="append", default=[], help="also look for what it needs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def completion() -> CommandParser:
    parser = CommandParser(
        "completion",
        "Print a script that completes the command unrender, which is python -m trainer, in a shell.",
        epilog="in ~/.bashrc:\n  source <(unrender completion bash)",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser
