#!/usr/bin/env bash
# Tests the bridges in environments of their own, because their packages exclude each other.
#
# tests/bridges/NAME.txt lists the pinned packages of an environment, in which tests/bridges/test_NAME.py
# runs, or the tests that its line `# tests: A B` names. With the line `# on top of .venv`, the packages
# are laid over that environment (or $VENV), which has the extra train, without what they require.
# Without arguments all environments are tested; `tests/bridges/run.sh inspect mcp` tests two.
# They are kept in $BRIDGES_DIR (by default .bridges) and reused while NAME.txt is the same. uv makes them,
# which takes seconds where pip takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=$(PATH=$PATH:${VENV:-.venv}/bin command -v uv) || { echo "needs uv: pip install uv" >&2; exit 1; }
mkdir -p "${BRIDGES_DIR:-.bridges}"
folder=$(cd "${BRIDGES_DIR:-.bridges}" && pwd)
# What other projects deprecate is reported; what it breaks fails.
not_errors=(-W default::DeprecationWarning -W default::PendingDeprecationWarning
    -W default::FutureWarning)
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for file in tests/bridges/*.txt; do names+=("$(basename "$file" .txt)"); done
fi
for name in "${names[@]}"; do
    requirements=tests/bridges/$name.txt
    packages=$folder/$name
    if grep -qx '# on top of .venv' "$requirements"; then
        python=${VENV:-.venv}/bin/python
        make=(test -x "$python")
        install=(--no-deps --target "$packages")
        update=(true)
        path=$PWD:$packages
    else
        python=$packages/bin/python
        make=("$uv" venv --quiet --python "${PYTHON:-python3}" "$packages")
        install=(-e . pytest pytest-timeout hypothesis)
        update=("$uv" pip install --quiet --python "$python" --no-deps -e .)
        path=$PWD
    fi
    if ! cmp -s "$requirements" "$packages/installed.txt"; then
        echo "installing what the tests of $name need"
        rm -rf "$packages"
        "${make[@]}" || { echo "no environment for $name: $python" >&2; exit 1; }
        "$uv" pip install --quiet --python "$python" "${install[@]}" -r "$requirements"
        cp "$requirements" "$packages/installed.txt"
    elif [ pyproject.toml -nt "$packages/installed.txt" ]; then  # the entry points may have changed
        "${update[@]}"
        touch "$packages/installed.txt"
    fi
    tests=$(sed -n 's/^# tests: //p' "$requirements")
    for test in ${tests:-$name}; do
        PATH=$(dirname "$python"):$PATH PYTHONPATH=$path \
            "$python" -m pytest -q -p no:cacheprovider "${not_errors[@]}" "tests/bridges/test_$test.py"
    done
done
