"""`python -m groundscore`: the command, where it is not installed."""

from groundscore.commands import main
from groundscore.errors import run_main

if __name__ == "__main__":
    run_main(main)
