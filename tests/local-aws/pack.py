"""Packs what `sam build` made, once for all environments.

    pack.py BUILD_DIR

`sam deploy` would zip each function itself, for each environment anew, and
spend a quarter of a minute on compressing dev binaries that only go to the
emulator next door. So each function's folder becomes an uncompressed zip, and
the built template names that.
"""

import os
import sys
import zipfile

build = sys.argv[1]
template = os.path.join(build, "template.yaml")
with open(template) as file:
    text = file.read()
for name in sorted(os.listdir(build)):
    binary = os.path.join(build, name, "bootstrap")
    code = f"CodeUri: {name}\n"
    if not os.path.isfile(binary):
        continue
    if text.count(code) != 1:
        sys.exit(f"{template} does not say `{code.strip()}` once")
    with zipfile.ZipFile(os.path.join(build, f"{name}.zip"), "w", zipfile.ZIP_STORED) as packed:
        packed.write(binary, "bootstrap")
    text = text.replace(code, f"CodeUri: {name}.zip\n")
with open(template, "w") as file:
    file.write(text)
