"""`python -m ldmsid_core`: the command, where a launcher of several processes wants a module."""

from .cli import run

if __name__ == "__main__":
    run()
