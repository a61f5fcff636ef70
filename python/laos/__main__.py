"""`python -m laos ...` and the command `laos` of the wheel: the program itself."""

import os
import sys

from laos import program


def main():
    os.execv(program(), ["laos", *sys.argv[1:]])


if __name__ == "__main__":
    main()
