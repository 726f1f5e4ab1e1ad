"""The tutorials as a reader follows them: their files, and their commands in order and as printed, in an empty folder.

Lines that say `# long` are left out. A pgdlab.yaml makes the runs small; what a page's commands set themselves stays.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import DOCS, ROOT, files

SMALL = "policy: {steps: 2}\nplan: {iterations: 1, eval_samples: 8}\n"
PAGES = {
    "own_reward": ["runs/upper-ink/export", "runs/from-python/before_after.png", "runs/compare-upper-ink/report.html"],
    "own_model": ["runs/shapes-base/base/README.md", "runs/red/before_after.png"],
    "molecules": ["runs/polar/molecules.csv"],
    "cluster": ["runs/study/trials.md", "runs/compare-study/report.html"],
}
PROGRAM = Path(sys.executable).parent / "pgdlab"


def script(text: str) -> str:
    """The page's commands, without those that take long."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return "\n".join(line for line in lines if "# long" not in line and not line.startswith("#SBATCH"))


def test_no_tutorial_is_left_out() -> None:
    assert {page.stem for page in (DOCS / "tutorials").glob("*.md")} == {*PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_a_tutorial_does_what_it_says(name: str, tmp_path: Path) -> None:
    if not PROGRAM.exists():
        pytest.skip("pgdlab is not installed")
    page = (DOCS / "tutorials" / f"{name}.md").read_text()
    if name == "cluster":
        pytest.importorskip("ray")
    place = tmp_path / "steering" if "cd steering" in page else tmp_path
    place.mkdir(exist_ok=True)
    (place / "pgdlab.yaml").write_text(SMALL)
    for file, text in files(page).items():
        (place / file).write_text(text)
    if name == "cluster":  # a sweep reads no pgdlab.yaml: its file says what its runs are
        text = (place / "study.yaml").read_text()
        small = "".join(f"  - {word}\n" for word in ("policy.steps=2", "plan.iterations=1", "plan.eval_samples=8"))
        (place / "study.yaml").write_text(
            text.replace("  - experiment=digits/quickstart\n", f"  - experiment=digits/quickstart\n{small}")
        )
    commands = script(page).replace("mkdir steering", "mkdir -p steering")
    paths = {
        "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(shutil.which("bash")), "-euc", commands], cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [path for path in PAGES[name] if not (place / path).exists()] == []
