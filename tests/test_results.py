"""README's figures against the files in results/ that they are cut from; every result states its command."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted((ROOT / "results").glob("*.md"))}
SOURCES = {**RESULTS, "docs/performance.md": (ROOT / "docs" / "performance.md").read_text()}
TABLE = re.compile(r"(?:<!-- figures: (\S+) -->\n)?((?:^\|.*\n)+)", re.MULTILINE)
Cells = dict[tuple[str, str], str]  # (first cell of the row, head of the column) -> cell


def cells(table: str) -> Cells:
    """The cells of a markdown table but those of the first column."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {(row[0], head): cell for row in rows[2:] for head, cell in zip(rows[0][1:], row[1:], strict=True)}


def tables(text: str) -> list[tuple[str, Cells]]:
    """(file that a table says it is cut from, or "", its cells) of every table."""
    return [(found[1] or "", cells(found[2])) for found in TABLE.finditer(text)]


def wrong_cells(readme: str, sources: dict[str, str]) -> list[str]:
    """Cells of README that differ from the source's cell, or from its part before a comma and a space."""
    wrong = []
    for source, stated in tables(readme):
        known = tables(sources[source])[0][1] if source else stated
        wrong += [
            f"{source}: {key} is {known.get(key)}, not {cell}"
            for key, cell in stated.items()
            if cell not in (known.get(key), known.get(key, "").partition(", ")[0])
        ]
    return wrong


def unfounded(readme: str) -> list[str]:
    """Decimal numbers outside of code and of tables with a source: nothing holds them to what was measured."""
    rest = TABLE.sub(
        lambda match: "" if match[1] else match[0], re.sub(r"```.*?```|`[^`]*`", "", readme, flags=re.DOTALL)
    )
    return re.findall(r"\d+\.\d+", rest)


def test_readme_s_figures_are_those_of_the_results() -> None:
    assert wrong_cells(README, SOURCES) == []
    assert unfounded(README) == []
    assert len(README.splitlines()) < 160


def changed(text: str, at: int) -> str:
    """The text with another digit in one place."""
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def test_a_changed_digit_is_seen() -> None:
    """In any cell of a table of figures, here and in its source; and a figure in the prose."""
    shown = [(match.start(2) + match[2].index("\n"), match.end(2)) for match in TABLE.finditer(README) if match[1]]
    digits = [at for start, end in shown for at in range(start, end) if README[at].isdigit()]
    assert len(digits) > 100
    assert [at for at in digits if not wrong_cells(changed(README, at), SOURCES)] == []
    for source, stated in tables(README):
        for (row, _), cell in stated.items() if source else ():
            before, found, after = SOURCES[source].partition(f"| {row} ")
            other = before + found + re.sub(rf"\| {re.escape(cell)}(?= \||, )", f"| {cell}9", after, count=1)
            assert wrong_cells(README, {**SOURCES, source: other}), (source, row, cell)
    assert unfounded(README.replace("# Results", "# Results\n\nIt takes 0.34 of the time. `0.5`")) == ["0.34"]


def test_every_result_states_its_command_and_is_listed() -> None:
    for name, text in RESULTS.items():
        if Path(name).name != "README.md":
            before = text[: text.index("\n|")]
            assert re.search(r"```bash\n(?:.*\n)*?python run\.py .*\n(?:.*\n)*?```", before), name
            assert f"]({Path(name).name})" in RESULTS["results/README.md"], name
