"""`python -m entk`."""

from entk.cli import main

main()
