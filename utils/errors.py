"""The exception for invalid user input."""


class InputError(ValueError):
    """Invalid file, option or machine setup. The message names what is wrong and how to fix it, in one sentence.

    The command line prints only the message and exits with status 2. Any other exception keeps its traceback.
    """

    @property
    def message(self) -> str:
        """The message on one line, without control characters, which names of files may contain."""
        return " ".join("".join(c if c.isprintable() else " " for c in str(self)).split())
