"""`python -m twophase`."""

from twophase.cli import main

main()
