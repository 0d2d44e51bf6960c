"""`python -m fromage_cli` is the same program as `fromage-diag`: no library is looked for in the working directory."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]

    from fromage_cli.cli import main

    main()
