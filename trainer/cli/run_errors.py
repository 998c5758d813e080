"""One-sentence messages for checkpoints that do not fit and for disks that refuse a file."""

import errno
import re
import traceback

from utils.errors import InputError

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is exhausted",
    errno.EFBIG: "the file is larger than the system allows",
    errno.EROFS: "the disk is read-only",
}
OTHER_DIRECTORY = "pass another directory (--run_dir, --output, UNRENDER_CACHE)"
NOT_ALLOWED = (errno.EACCES, errno.EPERM)
WRONG_KIND = {
    errno.EEXIST: "a file of this name exists",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "it is a directory",
}


def checkpoint_error(message: str, checkpoint: str) -> InputError:
    """The message for weights that do not fit a module, naming the first mismatch."""
    mismatch = "its weights have other names or shapes"
    if match := re.search(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)", message):
        mismatch = f"{match[1]} is {match[2]} there and {match[3]} here"
    elif match := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', message):
        mismatch = f"{match[2]} is missing {'there' if match[1] == 'Missing' else 'here'}"
    return InputError(f"{checkpoint} was trained with another configuration: {mismatch}")


def foreign_checkpoint(error: Exception, checkpoint: str) -> InputError:
    """The message for a checkpoint whose values are not those that a training saves."""
    return InputError(f"{checkpoint} cannot be restored ({type(error).__name__}: {str(error)[:100]}); pass another one")


def restores_checkpoint(error: BaseException) -> bool:
    """Whether an error was raised while Lightning restored a checkpoint."""
    return any(
        frame.f_globals.get("__name__", "").endswith(".checkpoint_connector") and "restore" in frame.f_code.co_name
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def disk_error(error: BaseException) -> tuple[str, str] | None:
    """What a file system refused that is full or protected, or has another file there, and the cure; else None."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            problem = f"{cause.filename or 'a file'} could not be written: {DISK_ERRORS[cause.errno]}"
            fix = OTHER_DIRECTORY if cause.errno == errno.EROFS else "free space and run the command again"
            return problem, fix
        if isinstance(cause, OSError) and cause.errno in NOT_ALLOWED and cause.filename:
            return (
                f"{cause.filename} cannot be opened: permission denied",
                f"change its permissions, or {OTHER_DIRECTORY}",
            )
        if isinstance(cause, OSError) and cause.errno in WRONG_KIND and cause.filename:
            return f"{cause.filename} cannot be opened: {WRONG_KIND[cause.errno]}", "pass another path"
        cause = cause.__cause__ or cause.__context__
    return None
