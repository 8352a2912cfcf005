"""``python -m eto_envs.webshop.mini FOLDER [ROUNDS]`` writes the mini dataset's files."""

import sys
from pathlib import Path

from eto_envs.webshop.mini.dataset import write_mini

if __name__ == "__main__":
    write_mini(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
