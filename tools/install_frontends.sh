#!/bin/sh
# ComfyUI's web frontend for the browser tests: the oldest and the newest supported version,
# side by side in <environment>/frontends/<version>. Usage: install_frontends.sh VENV_PYTHON
set -eu

python="${1:?usage: install_frontends.sh VENV_PYTHON}"
folder="$("$python" -c 'import sys; print(sys.prefix)')/frontends"

for version in 1.27.10 1.58.1; do
    if [ -f "$folder/$version/complete" ]; then
        continue
    fi
    rm -rf "${folder:?}/$version"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$folder/$version" "comfyui-frontend-package==$version"
    # Written last, so that an interrupted install is not taken for a whole one.
    touch "$folder/$version/complete"
done
