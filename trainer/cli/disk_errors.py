"""A disk that takes no more, told as one sentence."""

import errno

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
    errno.EROFS: "the disk cannot be written to",
}


def disk_error(error: BaseException) -> str | None:
    """The sentence for an error that a full disk caused, anywhere along its causes; None for any other."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in REASONS:
            what = f"{cause.filename} could not be written" if cause.filename else "a file could not be written"
            return f"{what}: {REASONS[cause.errno]}"
        cause = cause.__cause__ or cause.__context__
    return None
