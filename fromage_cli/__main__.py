"""`python -m fromage_cli` is the same program as `fromage-diag`."""

from fromage_cli.cli import main

if __name__ == "__main__":
    main()
