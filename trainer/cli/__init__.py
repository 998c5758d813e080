"""The command line: options, config composition, LightningCLI, and error messages."""
