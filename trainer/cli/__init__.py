"""How a command line becomes a run: options, config composition, LightningCLI, and error messages."""
