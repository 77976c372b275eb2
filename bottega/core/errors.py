"""Errors that a user can mend, each with its exit code.

Left out: our own broken promises, which are `assert`s and end with exit code 70 and a traceback.
"""


class UserError(Exception):
    """Something the user can mend: one sentence with the value, the limit and the remedy. Exit code 2."""

    exit_code = 2


class CheckFailed(UserError):
    """A check ran and came out negative. Exit code 1."""

    exit_code = 1


class Mismatch(UserError):
    """A recorded run and its inputs disagree (data, tokenizer, template, base or recipe changed). Exit code 3."""

    exit_code = 3


class Unsafe(UserError):
    """Unsafe or corrupt input: pickle formats, remote code, a flipped bit with no good copy left. Exit code 4."""

    exit_code = 4


class Diverged(UserError):
    """The training diverged (non-finite loss or gradient). Exit code 5."""

    exit_code = 5


class DoesNotFit(UserError):
    """Does not fit in memory. Exit code 6."""

    exit_code = 6


class DiskFull(UserError):
    """No space left, or the folder cannot be written. Exit code 7."""

    exit_code = 7


class FolderInUse(UserError):
    """Another live process works in this run folder. Exit code 8."""

    exit_code = 8


class Partial(UserError):
    """Some rows, leaves or trials failed, or a budget ended; what is there is sound. Exit code 9."""

    exit_code = 9


class Followed(UserError):
    """Another process of this run has said what happened: this one ends with the same exit code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Unanswered(UserError):
    """One question got no usable answer; others may. `reason` is a word or two for counts; `fatal`: none will get one."""

    def __init__(self, reason: str, detail: str, *, fatal: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.fatal = reason, fatal
