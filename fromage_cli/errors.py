"""The one error family: every failure a user can cause or meet, with the exit code it ends in."""

from collections.abc import Sequence

EXIT_CODES = (
    ("0", "done"),
    ("1", "a bug in this program: please report it"),
    ("2", "the command line or the configuration is wrong"),
    ("3", "an input is missing, damaged or incomplete, or the output is not writable"),
    ("4", "refused as unsafe: code would run that you did not name (see trust)"),
    ("5", "model, batch and checkpoint do not fit together"),
    ("6", "the loss or gradient is NaN or Inf, or nothing converged"),
    ("7", "out of memory, or --time-limit or --max-memory reached (partial answer)"),
    ("10", "a warning (--fail-on warn), or a rate that is not reliable (--value)"),
    ("11", "a failure (--fail-on warn or fail)"),
    ("130", "interrupted"),
    ("141", "nobody reads the pipe"),
    ("143", "terminated"),
)
"""What each exit code of the program means."""


class FromageError(Exception):
    """A failure that is explained to the user instead of being shown as a traceback.

    `message` says what came and what was expected, and `hint` what to do next. `details` holds the long list (every
    missing key, say) that is printed only under `-v`.
    """

    exit_code = 1
    code = "bug"

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


def words_of(error: BaseException) -> str:
    """The text of an exception, which may be anybody's and fail to tell it."""
    try:
        return str(error)
    except BaseException:  # a reason to stop among them is remembered elsewhere
        return "no text (reading it failed)"


class UsageError(FromageError):
    """The command line, the environment or the configuration is wrong."""

    exit_code = 2
    code = "usage"


class InputError(FromageError):
    """An input is missing, unreadable, incomplete or unsupported, or an output cannot be written."""

    exit_code = 3
    code = "input"


class UnsafeError(FromageError):
    """Going on would run code, or read a path, that the user has not named."""

    exit_code = 4
    code = "unsafe"


class MismatchError(FromageError):
    """Model, batch, loss and checkpoint do not fit each other."""

    exit_code = 5
    code = "mismatch"


class NumericalError(FromageError):
    """The base loss or gradient is not finite, or an iteration did not converge."""

    exit_code = 6
    code = "numerics"


class NotFiniteError(NumericalError):
    """The checkpoint's own weights, loss or gradient are not finite."""


class ResourceError(FromageError):
    """Memory ran out, or a limit set by the user was reached."""

    exit_code = 7
    code = "resources"


class OutOfMemory(ResourceError):
    """An allocation failed."""
