"""Files of pairs: what is kept, what is cut, what is refused, and public tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.preferences.annotator import names_of, questions, unanswered
from pgdlab.preferences.gallery import read_samples, rows_of, seen
from pgdlab.preferences.pairs import Answer, PairFile, Pairs, Row, source_of
from pgdlab.preferences.public import read

GOOD = {"first": "samples.pt:0", "second": "samples.pt:3", "winner": "second", "prompt": "a cat"}


def written(path: Path, *records: dict[str, Any]) -> PairFile:
    file = PairFile(path)
    for record in records:
        file.append(record)
    return file


def test_answers_are_read_as_they_were_given(tmp_path: Path) -> None:
    tie = {"first": "a.png", "second": "samples.pt:0", "winner": "tie", "probability": 0.25}
    written(tmp_path / "p.jsonl", GOOD, tie)
    pairs = read([str(tmp_path / "p.jsonl")], "pairs")
    assert pairs.sources == (Row(tmp_path / "samples.pt", 0), Row(tmp_path / "samples.pt", 3), tmp_path / "a.png")
    assert pairs.rows.tolist() == [[0, 1], [2, 0]]
    assert pairs.share.tolist() == [0.0, 0.5]
    assert pairs.prompts == ("a cat", "")
    assert pairs.probability.isnan().tolist() == [True, False]


def test_an_answer_is_taken_back(tmp_path: Path) -> None:
    other = GOOD | {"first": "samples.pt:7"}
    file = written(tmp_path / "p.jsonl", GOOD, other, {"undo": True}, {"undo": True}, {"undo": True}, other)
    assert [record["first"] for record in file.records()] == ["samples.pt:7"]
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 6, "nothing is written over"


def test_a_line_that_was_cut_is_dropped_and_said(tmp_path: Path, capsys: Any) -> None:
    file = written(tmp_path / "p.jsonl", GOOD, GOOD)
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-9])
    assert len(file.records()) == 1
    assert "the last line was cut, and is left out" in capsys.readouterr().err
    file.append(GOOD)
    assert file.path.read_bytes() == content, "the rest of the cut line is gone"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"first": "samples.pt:1", "winner": "first"}', "line 2: it must name two samples"),
        ('{"first": 3, "second": 4, "winner": "first"}', "line 2: it must name two samples"),
        ("not json", "line 2: it must name two samples"),
        ('{"first": "a", "second": "b", "winner": "left"}', "line 2: winner is 'left'; it must be first, second, tie"),
    ],
)
def test_a_line_that_is_no_answer_is_refused(line: str, match: str, tmp_path: Path) -> None:
    file = written(tmp_path / "p.jsonl", GOOD)
    file.path.write_text(file.path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=match):
        file.records()


def test_no_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file of pairs .*task=annotate makes one"):
        read([str(tmp_path / "p.jsonl")], "pairs")
    (tmp_path / "p.jsonl").touch()
    with pytest.raises(ValueError, match="has no pair"):
        read([str(tmp_path / "p.jsonl")], "pairs")
    with pytest.raises(ValueError, match="a pair of one sample with itself"):
        Pairs.of([Answer(Row(tmp_path, 1), Row(tmp_path, 1), 1.0)], "it")


def test_rows_of_samples(tmp_path: Path) -> None:
    sample, cond = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1] * 3)
    torch.save({"sample": sample, "cond": cond}, tmp_path / "s.pt")
    own = [source_of(f"s.pt:{row}", tmp_path) for row in (5, 0)]
    rows, of = rows_of(own, (2,))
    assert rows.tolist() == [[10.0, 11.0], [0.0, 1.0]]
    assert of.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"s.pt:6 is not there: the file has 6 samples"):
        rows_of([source_of("s.pt:6", tmp_path)], (2,))
    with pytest.raises(ValueError, match=r"has samples of \(2,\), and the domain's are \(3,\)"):
        rows_of(own, (3,))
    with pytest.raises(ValueError, match=r"a.png is a picture, and samples are wanted"):
        rows_of([tmp_path / "a.png"], (2,))
    with pytest.raises(ValueError, match="fit on one kind at a time"):
        seen([*own, tmp_path / "a.png"], (2,), lambda x: x)
    with pytest.raises(ValueError, match="the domain has none"):
        seen([tmp_path / "a.png"], (2,), lambda x: x)


class Shout:
    """What a pickle could do."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_a_file_of_samples_is_executed(tmp_path: Path, capsys: Any) -> None:
    torch.save({"sample": Shout(), "cond": torch.zeros(1)}, tmp_path / "s.pt")
    with pytest.raises(ValueError, match="cannot read samples from"):
        read_samples(tmp_path / "s.pt", (2,))
    assert "executed" not in capsys.readouterr().out


def picture(path: Path, grey: int, side: int = 8) -> bytes:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, side), grey).save(path)
    return path.read_bytes()


def table(rows: list[dict[str, Any]], path: Path) -> str:
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("ending", [".parquet", ".json"])
def test_rankings_of_image_reward_db(ending: str, tmp_path: Path) -> None:
    """Ranks 1, 2, 2 of one prompt are 2 wins and a tie; a prompt with one image says nothing."""
    ranks = {"a": ("x", 1), "b": ("x", 2), "c": ("x", 2), "d": ("y", 1)}
    rows = [
        {"image_path": f"images/{name}.png", "prompt_id": prompt, "prompt": f"text of {prompt}", "rank": rank}
        for name, (prompt, rank) in ranks.items()
    ]
    pairs = read([table(rows, tmp_path / f"metadata{ending}")], "image_reward_db")
    named = [[Path(str(pairs.sources[i])).stem for i in pair] for pair in pairs.rows.tolist()]
    assert list(zip(named, pairs.share.tolist(), strict=True)) == [
        (["a", "b"], 1.0),
        (["a", "c"], 1.0),
        (["b", "c"], 0.5),
    ]
    assert set(pairs.prompts) == {"text of x"}
    with pytest.raises(ValueError, match="row 1 has no prompt; there are image_path"):
        read([table([{"image_path": "a", "prompt_id": 1, "rank": 1}], tmp_path / "m.json")], "image_reward_db")


def test_pairs_of_pick_a_pic(tmp_path: Path) -> None:
    """The files' bytes are the samples: the same picture in two rows is one. Rows without a label are left out."""
    black, grey, white = (picture(tmp_path / f"{name}.png", level) for name, level in (("b", 0), ("g", 51), ("w", 255)))
    rows = [
        {"jpg_0": black, "jpg_1": white, "caption": "light", "label_0": 0.0, "has_label": True},
        {"jpg_0": white, "jpg_1": grey, "caption": "light", "label_0": 0.5, "has_label": True},
        {"jpg_0": white, "jpg_1": grey, "caption": "light", "label_0": 1.0, "has_label": False},
    ]
    pairs = read([table(rows, tmp_path / "p.parquet")], "pick_a_pic")
    assert pairs.rows.tolist() == [[0, 1], [1, 2]]
    assert pairs.share.tolist() == [0.0, 0.5]
    x, cond = seen(pairs.sources, (1, 8, 8), lambda sample: sample)
    assert cond is None
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.tensor([0.0, 1.0, 0.2]))
    wrong = [rows[0] | {"label_0": 0.3}]
    with pytest.raises(ValueError, match=r"row 1: label_0 is 0.3; it must be 0, 0.5 or 1"):
        read([table(wrong, tmp_path / "w.parquet")], "pick_a_pic")


def test_questions_are_of_one_prompt_and_use_every_sample_once_first() -> None:
    cond = torch.tensor([0] * 7 + [1] * 6)
    asked = questions(cond, None, str, 3)
    rows = [row for q in asked for row in (q.first, q.second)]
    assert len(asked) == 6
    assert len(set(rows)) == 12, "one of the seven is over"
    more = questions(cond, 20, str, 3)
    assert more[:6] == asked, "a sitting that asks for more goes on with the same"
    assert len({frozenset((q.first, q.second)) for q in more}) == 20
    for q in more:
        assert cond[q.first] == cond[q.second]
        assert q.prompt == str(int(cond[q.first]))
    assert {q.left for q in more} == {"first", "second"}
    with pytest.raises(ValueError, match=r"37 pairs are asked for, and 13 samples make 36 of the same prompt"):
        questions(cond, 37, str, 3)
    with pytest.raises(ValueError, match="draw more samples"):
        questions(torch.arange(3), None, str, 3)


def test_a_sitting_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    """In whichever order the two are named; names lead from the folder of the file of pairs to that of the samples."""
    file = PairFile(tmp_path / "there" / "p.jsonl")
    names = names_of(tmp_path / "here" / "s.pt", file.path, 6)
    assert names[2] == "../here/s.pt:2"
    assert source_of(names[2], file.path.parent) == Row(tmp_path / "here" / "s.pt", 2)
    asked = questions(torch.zeros(6, dtype=torch.long), None, str, 0)
    file.append(asked[1].record(names, "tie"))
    file.append(asked[0].record(names, "first") | {"first": names[asked[0].second], "second": names[asked[0].first]})
    assert unanswered(asked, names, file) == asked[2:]
