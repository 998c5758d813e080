"""One module per command of ``python -m trainer`` that is not a LightningCLI command."""
