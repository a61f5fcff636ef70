"""Writes the metadata of the wheel whose tree is given: wheel_metadata.py TREE VERSION TAG."""

import pathlib
import sys

tree, version, tag = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
info = tree / f"laos-{version}.dist-info"
info.mkdir(parents=True)
(info / "METADATA").write_text(f"""Metadata-Version: 2.1
Name: laos
Version: {version}
Summary: Accurate low-bit quantization of Hugging Face LLM checkpoints on CPUs
License: Apache-2.0
Requires-Python: >=3.9
Description-Content-Type: text/markdown

""" + (pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
(info / "WHEEL").write_text(f"""Wheel-Version: 1.0
Generator: laos
Root-Is-Purelib: false
Tag: {tag}
""")
(info / "entry_points.txt").write_text("[console_scripts]\nlaos = laos.__main__:main\n")
