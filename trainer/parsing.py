"""How configs are parsed, set once for the process."""

import jsonargparse

# Both let ${...} follow overrides; the second where it stands for a whole dataclass, such as views: ${data.init_args.views}.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=["is_pure_dataclass"])

PARSER_MODE = "omegaconf+"
