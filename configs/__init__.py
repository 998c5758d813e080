"""Configs: experiments, and the parts they are composed of."""

from pathlib import Path

FOLDER = Path(__file__).parent
