"""The one exception that means "what you gave me cannot be used"."""


class InputError(ValueError):
    """A mistake in a file, an option or the machine's set-up, told in one sentence that names it and the cure.

    The command line prints the sentence alone and leaves with status 2; everything else keeps its traceback.
    """

    @property
    def sentence(self) -> str:
        """The message in one line, without what a terminal would obey: names in files may hold anything."""
        return " ".join("".join(c if c.isprintable() else " " for c in str(self)).split())
