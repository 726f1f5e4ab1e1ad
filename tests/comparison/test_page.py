"""The page and the task: self-contained, complete, and made from real runs too."""

from __future__ import annotations

import base64
import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.comparison.comparison import Comparison
from pgdlab.comparison.folders import Failure, read
from pgdlab.comparison.page import page
from pgdlab.comparison.report import compare
from tests.comparison.folders import run
from tests.worlds import tiny

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Text, images and links of a page; every tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())  # as a browser shows it
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [tag] if tag not in VOID else []
        found = dict(attrs)
        self.images += [str(found["src"])] if "src" in found else []
        self.links += [str(found["href"])] if "href" in found else []
        self.ids += [str(found["id"])] if "id" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods and best-of-n on digits, two of them on fashion; a problem with one method; a failure."""
    folder = tmp_path_factory.mktemp("study")
    for domain in ("digits", "fashion"):
        for name, after in (("ppo", 0.8), ("reinforce", 0.6)):
            for seed in range(3):
                more = after + 0.02 * seed * (name == "ppo")
                run(folder / f"{domain}-{name}-{seed}", f"domain={domain}", f"trainer={name}", seed=seed, after=more)
    run(folder / "grpo", "domain=digits", "trainer=grpo", after=0.5)
    run(folder / "best", "domain=digits", "task=best_of_n", after=0.4)
    run(folder / "alone", "reward.target=5")
    (run(folder / "lost<b>", "trainer=rwr", "penalty=none") / "summary.json").unlink()
    return folder


def made(folder: Path, **options: Any) -> str:
    chosen = Comparison(folders=(str(folder),), **options)
    return page(compare(read(chosen.folders), chosen))


def test_the_page_needs_nothing_else(study: Path) -> None:
    text = made(study, ceilings={"digits": 1.0, "fashion": 1.0})
    found = Checker(text)
    assert "<script" not in text
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", image) for image in found.images)
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", text))
    svgs = [base64.b64decode(i.partition("base64,")[2]).decode() for i in found.images if "svg" in i]
    # over all problems: means and profiles; each problem: scores, curves, two frontiers; one has best-of-n: delivered
    # samples, and reward over KL
    assert len(svgs) == 2 + 2 * 4 + 2
    assert all(svg.startswith("<svg") for svg in svgs)
    assert len(found.images) - len(svgs) == 4 + 2 + 1  # before and after of each method


def test_the_page_says_what_it_must(study: Path) -> None:
    text = Checker(made(study, ceilings={"digits": 1.0, "fashion": 1.0})).text
    assert "15 runs of 4 methods on 3 problems; 1 run did not finish" in text
    assert text.count("No winner can be named") == 2 * 2  # at the top, and with the problem
    assert "6 are needed at least" in text
    assert "75 % with 3 seeds" in text  # coverage beside the intervals
    assert "3 seeds of 2 problems" in text
    names = ("best of n", "base, untuned", "hacking", "per further sample", "IQM", "optimality gap", "P(first better)")
    assert [name for name in names if name not in text] == []
    assert "lost<b>" in text  # escaped: it is text
    for said in (
        "Glossary",
        "How settings were chosen is not declared",
        "settings in which the methods differ",
        "made with",
    ):
        assert said in text
    assert "stopped after" in text or "not evaluated" in text


def test_without_a_scale_nothing_is_put_together(study: Path) -> None:
    text = Checker(made(study)).text
    assert "gain in reward" in text
    assert "All problems together" not in text


def test_nothing_finished_is_refused(tmp_path: Path) -> None:
    (run(tmp_path / "a") / "summary.json").unlink()
    with pytest.raises(
        ValueError, match=r"no finished run in compare.folders=.*: 1 stopped, 0 are folders of other tasks"
    ):
        made(tmp_path)


def test_a_report_without_failures_says_so(tmp_path: Path) -> None:
    run(tmp_path / "a")
    text = Checker(made(tmp_path)).text
    assert "none failed" in text
    assert "Runs that did not finish" not in text
    assert Failure(tmp_path, "x") not in read([str(tmp_path)]).failures


# ---- the task


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    return tmp_path / "runs"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_real_runs_are_compared_and_left_as_they_are(here: Path, capsys: Any) -> None:
    """Two trainers and best-of-n, two seeds each; other tasks' folders lie among them."""
    for seed in (0, 1):
        for more in (("trainer=ppo", "name=ppo"), ("trainer=reinforce", "name=rf"), ("task=best_of_n", "name=b")):
            assert cli.main(tiny(*more, f"seed={seed}")) == 0
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert cli.main(["task=compare", "compare.name=study"]) == 0
    assert before == {file: file.read_bytes() for file in before}
    folder, out = here / "compare-study", capsys.readouterr().out
    files = {"report.html", "report.csv", "runs.csv", "report.md", "report.tex", "config.yaml", "figures"}
    assert {f.name for f in folder.iterdir()} >= files
    page_charts = (folder / "report.html").read_text().count("image/svg+xml")
    kinds = sorted(f.suffix for f in (folder / "figures").iterdir())
    assert kinds == [".pdf"] * page_charts + [".png"] * page_charts
    assert page_charts == 7  # scores, queries, KL, equal KL, delivered samples, reward over KL, diversity
    assert (folder / "report.md").read_text() in out
    assert str(Path("runs") / "compare-study" / "report.html") in out
    Checker((folder / "report.html").read_text())
    rows = {row["method"]: row for row in table(folder / "report.csv")}
    assert rows.keys() == {"ppo", "reinforce", "best of n", "base, untuned"}
    assert {row["queries"] for row in rows.values()} == {"16.0", "0.0"}
    assert rows["base, untuned"]["reward before"] == rows["ppo"]["reward before"]
    runs = table(folder / "runs.csv")
    assert sorted((row["method"], row["seed"]) for row in runs if row["method"] == "ppo") == [
        ("ppo", "0"),
        ("ppo", "1"),
    ]
    assert (
        cli.main(["task=compare", "compare.folders=[runs/ppo,runs/ppo-2]"]) == 0
    )  # the comparison's own folder is no run
    assert (here / "compare").is_dir()


def test_its_settings_are_checked(here: Path, capsys: Any) -> None:
    assert cli.main(["task=compare", "compare.folder=[a]"]) == 2
    assert (
        "compare.folder is ['a'], but Comparison has no 'folder'. Did you mean compare.folders?"
        in capsys.readouterr().err
    )
    assert cli.main(["task=compare", "compare.folders=3"]) == 2
    assert "compare.folders is 3; Comparison takes tuple[str, ...]" in capsys.readouterr().err
    assert cli.main(["task=compare", "compare=runs"]) == 2
    assert "compare.folders names runs/*, where no run folder is" in capsys.readouterr().err
    assert not here.exists()


def test_with_wandb_both_tables_are_logged(here: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgdlab.comparison import report as task

    seen: list[list[str]] = []
    publish = task.publish

    def watched(logger: Any, files: list[Path], *rest: Any) -> None:
        seen.append([type(logger).__name__, *(f.name for f in files)])
        publish(logger, files, *rest)

    monkeypatch.setattr(task, "publish", watched)
    assert cli.main(["task=compare", f"compare.folders=['{study}']", "logger=wandb", "logger.wandb.mode=offline"]) == 0
    assert ["WandbKeeper", "report.csv", "runs.csv"] in seen
    assert list((here / "compare" / "wandb").rglob("*.wandb"))


def test_help_names_both_tasks(capsys: Any) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"compare +run folders \(compare.folders=", out)
    assert re.search(r"best_of_n +steers without training", out)
