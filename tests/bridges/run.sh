#!/usr/bin/env bash
# Tests the bridges, each in an environment of its own, because the packages exclude each other.
#
# tests/bridges/NAME.txt has the pinned packages of an environment, and tests/bridges/test_NAME.py the
# tests that run in it. Without arguments all run; `tests/bridges/run.sh inspect mcp` runs two.
# The environments are kept in $BRIDGES_DIR (by default .bridges) and reused while NAME.txt is the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${BRIDGES_DIR:-.bridges}
python=${PYTHON:-python3}
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for file in tests/bridges/*.txt; do names+=("$(basename "$file" .txt)"); done
fi
for name in "${names[@]}"; do
    requirements=tests/bridges/$name.txt
    venv=$folder/$name
    if ! cmp -s "$requirements" "$venv/installed.txt"; then
        echo "installing what the bridge $name needs"
        rm -rf "$venv"
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet -r "$requirements" -e . pytest pytest-timeout hypothesis
        cp "$requirements" "$venv/installed.txt"
    elif [ pyproject.toml -nt "$venv/installed.txt" ]; then  # the entry points may have changed
        "$venv/bin/pip" install --quiet --no-deps -e .
        touch "$venv/installed.txt"
    fi
    "$venv/bin/python" -m pytest -q -p no:cacheprovider "tests/bridges/test_$name.py"
done
