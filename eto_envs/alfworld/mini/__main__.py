"""``python -m eto_envs.alfworld.mini FILE [ROUNDS]`` writes the mini games as a pack."""

import sys
from pathlib import Path

from eto_envs.alfworld.mini.games import write_mini

if __name__ == "__main__":
    write_mini(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
