from twophase.cli import main

main()
