"""Bad values of the options of every command: status 2 and one sentence that names the option or the value."""

import pytest
from ddp.test_cluster_scripts import CONFIG

from trainer.__main__ import COMMANDS

VOXELS = """
base: small.yaml
model:
  class_path: lightning_modules.VoxelGANModule
  init_args:
    generator: {class_path: networks.VoxelGenerator, init_args: {voxel_size: 8, latent_size: 8, width: 16}}
    discriminator: {class_path: networks.DCGANDiscriminator, init_args: {image_size: 16, width: 8}}
    renderer: {class_path: renderers.OpenGLRenderer, init_args: {image_size: 16}}
    differentiable_renderer: {class_path: renderers.AbsorptionRenderer, init_args: {image_size: 16}}
    views: {azimuth: [0, 360], elevation: [0, 30]}
"""
PROXY = """
base: small.yaml
model:
  class_path: lightning_modules.NeuralRendererModule
  init_args:
    renderer: {class_path: renderers.OpenGLRenderer, init_args: {image_size: 16}}
    neural_renderer:
      class_path: renderers.NeuralRenderer
      init_args:
        network: {class_path: networks.RenderNet, init_args: {lattice_size: 16, image_size: 16, width: 16}}
        image_size: 16
        lattice_size: 16
    views: {azimuth: [0, 360], elevation: [0, 30]}
data:
  class_path: datamodules.ShapeDataModule
  init_args:
    shapes: &shapes
      class_path: datamodules.shapes.ProceduralShapes
      init_args: {category: chair, count: 8, voxel_size: 16}
    validation_shapes: *shapes
    batch_size: 4
    total_kimg: 0.1
"""
FIT = "fit --config small.yaml --trainer.fast_dev_run=1"
HEADS = "fit --config heads.yaml --trainer.fast_dev_run=1"
# By command line: options and what the message must contain.
CASES = {
    FIT: {
        "--seed_everything=-1": "seed_everything",
        "--seed_everything=4294967296": "seed_everything",
        "--seed_everything=x": "seed_everything",
        "--checkpoint_minutes=-1": "checkpoint_minutes",
        "--checkpoint_minutes=.nan": "checkpoint_minutes",
        "--trainer.val_check_interval=0": "val_check_interval",
        "--trainer.check_val_every_n_epoch=0": "check_val_every_n_epoch",
        "--trainer.log_every_n_steps=-1": "log_every_n_steps",
        "--trainer.max_steps=-5": "max_steps",
        "--trainer.max_time=soon": "soon",
        "--trainer.num_nodes=0": "num_nodes",
        "--keep_checkpoints=-1": "keep_checkpoints",
        "--monitor=beauty": "monitor beauty",
        "--mode=up --monitor=fid": "mode",
        "--mode=min": "mode min needs a metric",
        "--ckpt_path=nowhere.ckpt": "nowhere.ckpt does not exist",
        "--config=nowhere.yaml": "nowhere.yaml",
        "--model=nowhere.yaml": "nowhere.yaml",
        "--data.total_kimg=.nan": "total_kimg",
        "--data.total_kimg=.inf --trainer.fast_dev_run=0 --trainer.val_check_interval=10": "total_kimg",
        "--data.total_kimg=0": "total_kimg",
        "--data.total_kimg=null": "--data.init_args.total_kimg must be float, not null",
        "--data.batch_size=null": "--data.init_args.batch_size must be int, not null",
        "--data.shapes.count=null": "--data.init_args.shapes.init_args.count must be int, not null",
        "--model.r1_gamma=null": "--model.init_args.r1_gamma must be float, not null",
        "--model.generator_optimizer=torch.optim.Adam --model.generator_optimizer.lr=null": "lr must be float | Tensor",
        "--model.generator=null": "generator must be given",
        "--data.total_kimg=-1": "total_kimg",
        "--data.batch_size=0": "batch_size",
        "--data.batch_size=-4": "batch_size",
        "--data.num_workers=-1": "num_workers",
        "--data.images=0": "images",
        "--data.images=-3": "images",
        "--data.images=many": "images",
        "--data.images_per_model=0": "images_per_model",
        "--data.reference_images=0": "reference_images",
        "--data.reference_images=-1": "reference_images",
        "--data.seed=-1": "seed",
        "--data.views.fov=0": "fov",
        "--data.views.fov=200": "fov",
        "--data.views.elevation=[0,.nan]": "elevation",
        "--data.renderer.image_size=0": "image_size",
        "--data.renderer.image_size=-16": "image_size",
        "--data.renderer.threshold=2": "threshold",
        "--data.renderer.lighting.ambient=.nan": "ambient",
        "--data.shapes.seed=-1": "seed",
        "--data.shapes.count=0": "count",
        "--data.shapes.voxel_size=3": "voxel_size",
        "--data.shapes.category=sofa": "category",
        "--data.shapes.split=all_of_it": "split",
        "--model.ema_half_life_kimg=0": "ema_half_life_kimg",
        "--model.ema_half_life_kimg=-1": "ema_half_life_kimg",
        "--model.ema_half_life_kimg=.nan": "ema_half_life_kimg",
        "--model.r1_gamma=-1": "r1_gamma",
        "--model.r1_gamma=.nan": "r1_gamma",
        "--model.r1_every=0": "r1_every",
        "--model.kid_subset=1": "kid_subset",
        "--model.kid_subset=-1": "kid_subset",
        "--model.samples=0": "samples",
        "--model.samples=-2": "samples",
        "--model.sample_seed=-1": "sample_seed",
        "--model.extractor=imagnet": "imagnet",
        "--model.extractor_weights=nowhere.pt": "nowhere.pt",
        "--model.seed=-1": "seed",
        "--model.generator.width=0": "width",
        "--model.generator.latent_size=0": "latent_size",
        "--model.generator.image_size=15": "image_size",
        "--model.generator.channels=0": "channels",
        "--model.discriminator.width=0": "width",
        "--model.discriminator.width=-8": "width",
        "--model.discriminator.image_size=32": "image_size",
        "--model.generator_optimizer=torch.optim.Adam --model.generator_optimizer.lr=-1": "generator",
        "--model.discriminator_optimizer=torch.optim.Adam --model.discriminator_optimizer.lr=.nan": "discriminator",
        "--model.generator_optimizer=torch.optim.Adam --model.generator_optimizer.betas=[2,0.9]": "beta",
        "--model.generator_optimizer=torch.optim.Adam --model.generator_optimizer.lr=.inf": "lr of the optimizer",
        "--model.generator_optimizer=torch.optim.SGD --model.generator_optimizer.lr=.nan": "lr of the optimizer",
    },
    "fit --config small.yaml": {"--run_dir=small.yaml": "small.yaml is a file"},
    FIT.replace("small", "voxels"): {
        "--model.threshold=1.5": "threshold",
        "--model.threshold=-0.1": "threshold",
        "--model.shape_metrics=-1": "shape_metrics",
        "--model.generator.voxel_size=9": "voxel_size",
        "--model.generator.smoothing=-1": "smoothing",
        "--model.generator.initial_occupancy=1": "initial_occupancy",
        "--model.generator.out_channels=0": "out_channels",
        "--model.differentiable_renderer.image_size=32": "image_size",
    },
    FIT.replace("small", "proxy"): {
        "--data.validation_count=0": "validation_count",
        "--model.optimizer=torch.optim.SGD --model.optimizer.lr=-1": "optimizer",
        "--model.neural_renderer.network.width=0": "width",
        "--model.neural_renderer.network.blocks_2d=-1": "blocks_2d",
        "--model.neural_renderer.network.out_channels=0": "out_channels",
        "--model.neural_renderer.network.initial_intensity=1": "initial_intensity",
        "--model.neural_renderer.lattice_size=0": "lattice_size",
    },
    HEADS: {
        "--data.images=0": "images",
        "--data.oversampling=0": "oversampling",
        "--data.image_size=0": "image_size",
        "--data.batch_changes=[[5,0]]": "batch_changes",
        "--data.batch_changes=[[.nan,4]]": "batch_changes",
        "--data.batch_changes=[[5,8],[4,8]]": "batch_changes",
        "--model.truncation=.nan": "truncation",
        "--model.truncation_cutoff=-1": "truncation_cutoff",
        "--model.renderer.margin=-1": "margin",
        "--model.generator.mapping_layers=0": "mapping_layers",
        "--model.generator.channel_max=0": "channel_max",
        "--model.generator.mixing_probability=2": "mixing_probability",
        "--model.discriminator.stddev_group=0": "stddev_group",
    },
    "validate": {
        "": "validate needs --config NAME",
        "--run_dir=nowhere": "--run_dir nowhere is not a run directory",
        "--config=small.yaml --ckpt_path=nowhere.ckpt": "nowhere.ckpt does not exist",
        "--config=small.yaml --seed_everything=-1": "seed_everything",
        "--config=small.yaml --model.extractor=imagnet": "imagnet",
        "--config=small.yaml --fresh": "--fresh is an option of fit only",
    },
    "test": {
        "": "test needs --config NAME",
        "--run_dir=small.yaml": "small.yaml cannot be loaded",
        "--config=small.yaml --model.kid_subset=1": "kid_subset",
        "--config=small.yaml --trainer.limit_test_batches=-1": "limit_test_batches",
        "--config=small.yaml --ckpt_path=best": "no run of small has a checkpoint",
    },
    "predict": {
        "": "predict needs --config NAME",
        "--config=small.yaml --model.samples=0": "samples",
        "--config=small.yaml --trainer.devices=none": "devices",
        "--config=small.yaml --model.sample_seed=-1": "sample_seed",
    },
    "prepare": {
        "": "required: --config",
        "--config=nowhere.yaml": "nowhere.yaml",
        "--config=small.yaml --shard=0/3": "0/3",
        "--config=small.yaml --shard=4/3": "4/3",
        "--config=small.yaml --data.images=0": "images",
        "--config=small.yaml --images=3": "unrecognized arguments: --images",
        "--config=small.yaml --data.total_kimg=.nan": "total_kimg",
    },
    "figures": {
        "": "--run_dir",
        "--run_dir=nowhere": "nowhere",
        "--config=small.yaml --only=portraits": "portraits",
        "--run_dir=nowhere --rows=0": "'0' is not an integer",
        "--run_dir=nowhere --size=-1": "--size",
        "--run_dir=nowhere --zoom=0.5": "'0.5' is not a number of at least 1",
        "--run_dir=nowhere --psi=a,b": "--psi",
        "--run_dir=nowhere --truncation=2": "--truncation",
        "--run_dir=nowhere --numbers=3-1": "--numbers",
        "--run_dir=nowhere --columns=0": "--columns",
        "--run_dir=nowhere --sample_seed=-1": "--sample_seed",
        "--run_dir=nowhere --truncation_cutoff=-1": "--truncation_cutoff",
    },
    "fid": {
        "": "required: --real, --fake",
        "--real=nowhere --fake=nowhere": "nowhere",
        "--real=. --fake=. --kid_subset=1": "--kid_subset",
        "--real=. --fake=. --kid_subset=-5": "--kid_subset",
        "--real=. --fake=. --on_corrupt=ignore": "--on_corrupt",
    },
    "shapes": {
        "": "--run_dir RUN",
        "--run_dir=nowhere": "nowhere",
        "--run_dir=nowhere --count=0": "--count",
        "--run_dir=nowhere --points=1000000": "--points",
    },
    "table": {
        "": "required: NAME",
        "table9": "no such table",
        "table1 --scale=tiny": "--scale",
        "table1 --kimg=0": "--kimg",
        "table1 --kimg=nan": "--kimg",
        "table1 --scale=small --seeds=1,1": "--seeds",
        "table1 --scale=small --seeds=4294967296": "--seeds",
        "table1 --scale=small --seeds=99999999999999999999": "--seeds",
        "table1 --scale=small --only=nothing": "nothing",
        "table1 --root=nowhere": "nowhere",
        "table1 --scale=small --archive=nowhere.npz": "nowhere.npz",
        "table1 --scale=small --extractor=foo": "--extractor",
    },
    "export": {
        "": "--run_dir RUN",
        "--run_dir=nowhere": "nowhere",
        "--run_dir=nowhere --seeds=7-0": "--seeds",
        "--run_dir=nowhere --formats=fbx": "fbx",
        "--run_dir=nowhere --threshold=1.5": "--threshold",
        "--run_dir=nowhere --truncation=-1": "--truncation",
        "--run_dir=nowhere --frames=0": "--frames",
        "--run_dir=nowhere --film_size=0": "--film_size",
        "--run_dir=nowhere --decimate=3": "--decimate",
        "--run_dir=nowhere --elevation=nan": "--elevation",
        "--run_dir=nowhere --sample_seed=-1": "--sample_seed",
        "--run_dir=nowhere --turntable=avi": "--turntable",
        "--ckpt_path=nowhere.ckpt": "nowhere.ckpt",
    },
    "export-extractor": {"": "required: RUN", "nowhere": "nowhere"},
    "render": {
        "": "required: INPUT",
        "nowhere.glb": "nowhere.glb",
        "small.yaml --renderer=raytracer": "--renderer",
        "small.yaml --image_size=0": "--image_size",
        "small.yaml --image_size=10000 --views=10000": "choose smaller images or fewer views",
        "small.yaml --voxel_size=0": "--voxel_size",
        "small.yaml --azimuth=nan": "--azimuth",
        "small.yaml --shapes=9": "--shapes",
        "small.yaml --views=0": "--views",
        "small.yaml --views=2 --azimuth=3": "--views and --azimuth",
        "small.yaml --fov=180": "fov",
        "small.yaml --fov=nan": "fov",
        "small.yaml --elevation=nan": "elevation",
        "small.yaml --threshold=2": "--threshold",
        "small.yaml --backend=metal": "--backend",
        "small.yaml --renderer=absorption --depth": "no depth",
    },
    "invert": {
        "": "pass either --images or --held_out",
        "--images=nowhere": "--run_dir RUN",
        "--images=nowhere --held_out=3": "pass either",
        "--images=nowhere --run_dir=nowhere": "nowhere",
        "--run_dir=pretrained/chairs --images=nowhere": "nowhere",
        "--images=nowhere --known_views": "--known_views is for --held_out",
        "--held_out=3 --masks=nowhere": "omit them with --held_out",
        "--held_out=0": "--held_out",
        "--images=nowhere --fill=2": "--fill",
        "--images=nowhere --starts=0": "--starts",
        "--images=nowhere --steps=-1": "--steps",
        "--images=nowhere --film=avi": "--film",
    },
    "publish": {
        "": "required: --out",
        "--out=x.pt": "--run_dir RUN",
        "--run_dir=nowhere --out=x.pt": "nowhere",
        "--run_dir=pretrained/chairs --out=x.pt": "is published already",
        "--run_dir=pretrained/chairs --ckpt_path=best --out=x.pt": "omit --ckpt_path",
    },
    "view": {
        "--port=0": "--run_dir RUN",
        "--port=-1": "--port",
        "--port=70000": "--port",
        "--port=http": "--port",
        "--run_dir=nowhere --port=0": "nowhere",
        "--host=999.1.1.1 --port=0": "999.1.1.1",
    },
    "compare": {"": "required: RUN", "nowhere": "nowhere", "small.yaml": "small.yaml"},
    "doctor": {
        "--config=nowhere.yaml": "nowhere.yaml",
        "--config=list.yaml": "list.yaml must contain a mapping",
        "--config=text.yaml": "text.yaml, line 1",
        "--config=cycle.yaml": "cycle.yaml has itself as a base",
        "--config=lost.yaml": "no such config 'nowhere.yaml'",
        "--config=odd.yaml": "odd.yaml is not the config of an experiment: it has no data with a class_path",
        "--config=small.yaml --config=empty.yaml": "empty.yaml is not the config of an experiment",
        "--fix": "unrecognized arguments: --fix",
    },
    "completion": {"": "required: shell", "fish": "fish", "bash zsh": "unrecognized arguments: zsh"},
}


@pytest.fixture(autouse=True)
def configs(workplace):
    bad = {"list": "[1]", "text": "a: [", "empty": "", "odd": "data: 3", "lost": "base: nowhere.yaml"}
    bad |= {"cycle": "base: other.yaml", "other": "base: cycle.yaml"}
    for name, text in {"small": CONFIG, "voxels": VOXELS, "proxy": PROXY, **bad}.items():
        (workplace / f"{name}.yaml").write_text(text)
    yield
    assert not (workplace / "runs").exists() and not (workplace / "nowhere").exists()


@pytest.mark.parametrize(("command", "option"), [(line, option) for line in CASES for option in CASES[line]])
def test_a_bad_value_is_refused_in_one_sentence(refused, command, option):
    assert CASES[command][option] in refused(*command.split(), *option.split())


def test_every_command_has_bad_values():
    assert {line.split()[0] for line in CASES} == set(COMMANDS)
