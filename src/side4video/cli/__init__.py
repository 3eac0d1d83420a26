"""The command line: `main.py` finds the command, one file per command does it. Only this folder prints."""
