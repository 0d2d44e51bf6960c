"""`fromage-diag` and `python -m fromage_cli`: the program in a process of its own, which an interrupt ends quietly."""

import os
import signal
import sys


def main() -> None:
    """Run the program; Ctrl-C ends it without a traceback also while it is imported, and when it is over."""
    try:
        from fromage_cli.cli import main as program

        program()
    except KeyboardInterrupt:
        os._exit(130)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    if not sys.flags.safe_path:  # no library is looked for in the working directory
        del sys.path[0]
    main()
