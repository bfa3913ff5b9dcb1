"""The README's commands run as they are printed. Its Python example is a doctest, which pytest finds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

MODEL = """
<ir_version: 10, opset_import: ["": 21]>
small (float[batch, 8] x) => (float[batch, 8] y) {
    gate = Sigmoid(x)
    y = Mul(x, gate)
}
"""


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    assert len(commands()) >= 3
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for a checkout that is not installed
    for program, *arguments in commands():
        assert program == "graphwright"
        call = [
            sys.executable,
            "-c",
            "import sys; from graphwright.cli import main; sys.exit(main())",
            *arguments,
        ]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"


def test_the_python_example_is_a_doctest() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    # Without the empty line, doctest takes the closing fence for expected output.
    assert all(block.startswith(">>> ") and block.endswith("\n\n") for block in blocks)


@pytest.mark.parametrize("target", ["demo", "check"])
def test_the_readme_names_make_targets_that_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
