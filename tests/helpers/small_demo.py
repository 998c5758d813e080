"""Options for a small demo: 8 shapes, 16 reference images, four steps of four images."""

NETWORK = "--model.init_args.neural_renderer.init_args.network.init_args"
FIT = [
    "fit",
    "--config=demo.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.val_check_interval=0.5",
    "--trainer.log_every_n_steps=1",
    "--model.init_args.generator.init_args.width=16",
    "--model.init_args.generator.init_args.initial_occupancy=0.5",  # shapes are not empty after four steps
    "--model.init_args.discriminator.init_args.width=8",
    f"{NETWORK}.width=4",
    "--data.init_args.shapes.init_args.count=8",
    "--data.init_args.reference_shapes.init_args.count=8",
    "--data.init_args.reference_images=16",
    "--data.init_args.batch_size=4",
    "--data.init_args.total_kimg=0.016",
]
