"""``python -m edgec``: the command line, for checkouts that are not installed."""

from edgec.export.cli import main

main()
