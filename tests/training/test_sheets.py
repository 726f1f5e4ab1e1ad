"""Contact sheets on the way through training: every prompt, the same noise, and captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pgdlab import cli
from pgdlab.images.drawing import eight_bit, sheet
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import rollout
from pgdlab.training import sheets
from pgdlab.training.loggers import Keeper
from pgdlab.training.sheets import chosen, pictured
from tests.training.test_loggers import history, offline
from tests.worlds import BRIGHT, fitted, recorder, tiny

DIGITS = "domain.train_conditions=[0,1,2,3,4,5,6,7,8,9]"


class Seen(Keeper):
    """A logger that keeps what it is shown."""

    name, version = "seen", ""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[Path, list[tuple[Tensor, str]], int]] = []

    def log_hyperparams(self, *given: Any, **more: Any) -> None: ...
    def log_metrics(self, *given: Any, **more: Any) -> None: ...
    def keep(self, *given: Any) -> None: ...
    def keep_afterwards(self, *given: Any) -> None: ...

    def show(self, file: Path, images: list[tuple[Tensor, str]], iteration: int) -> None:
        self.shown.append((file, images, iteration))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The only logger of the runs of a test."""
    logger = Seen()
    monkeypatch.setattr("pgdlab.training.fit.loggers_of", lambda *given: [logger])
    return logger


@pytest.mark.parametrize("more", [(), ("policy=lora",)], ids=["full", "lora"])
def test_the_sheets_of_a_run(seen: Seen, tmp_path: Path, more: tuple[str, ...]) -> None:
    """At iterations 0, 2 and 4, an image a class. The first is the base's own, from the noise that evaluation has; the
    later ones are those of the weights as they are: the last one is drawn again when all is over."""
    base = recorder(BRIGHT, DIGITS, *more)[0]
    module = fitted(tmp_path, BRIGHT, DIGITS, *more, "plan.iterations=4", "plan.sheet_every=2", "optimizer.lr=0.02")
    files, images, iterations = zip(*seen.shown, strict=True)
    assert iterations == (0, 2, 4)
    assert [file.name for file in sorted((tmp_path / "sheets").iterdir())] == [file.name for file in files]
    assert [caption for _, caption in images[1]] == [str(digit) for digit in range(10)]
    drawn = [torch.stack([image for image, _ in some]) for some in images]
    assert torch.equal(drawn[0], pictured(base.world, range(10)))
    assert torch.equal(drawn[2], pictured(module.world, range(10)))
    assert not torch.equal(drawn[0], drawn[2])
    assert Image.open(files[0]).size == Image.open(files[2]).size


def test_the_sheets_of_a_run_have_the_noise_of_evaluation(tmp_path: Path) -> None:
    """The images of the same prompts in before_after.png."""
    module, _ = recorder(BRIGHT, DIGITS)
    world, cond = module.world, torch.arange(10)
    drawn = rollout(
        world.policy, world.reference, Noise(world.noise.seed, Stream.EVALUATE).of(0, range(10)), cond, batch=10
    )
    assert torch.equal(pictured(world, range(10)), eight_bit(world.domain.decoder(drawn.sample)))


def test_a_resumed_run_goes_on_with_its_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is drawn once, and the sheets of the whole run are those of the run in two parts."""
    monkeypatch.chdir(tmp_path)
    words = [BRIGHT, "plan.sheet_every=1", "domain.train_conditions=[3,7]"]
    assert cli.main([*tiny(*words, "plan.iterations=2"), "name=whole"]) == 0
    assert cli.main([*tiny(*words, "plan.iterations=1"), "name=cut"]) == 0
    for file in list(Path("runs/cut/sheets").iterdir()):
        file.unlink()
    assert cli.main(["resume=runs/cut", "plan.iterations=2"]) == 0
    assert [file.name for file in Path("runs/cut/sheets").iterdir()] == ["iteration_000002.png"]
    whole, cut = (np.asarray(Image.open(f"runs/{name}/sheets/iteration_000002.png")) for name in ("whole", "cut"))
    assert np.array_equal(whole, cut)


def test_wandb_has_an_image_a_prompt_with_its_caption(offline_run: Path) -> None:
    words = [BRIGHT, "plan.sheet_every=1", "plan.iterations=1", "domain.train_conditions=[3,7]", "logger=wandb"]
    assert cli.main([*tiny(*words), "name=x"]) == 0
    rows = [row for row in history(offline(offline_run)[0]) if any("contact_sheet" in key for key in row)]
    assert [row["_step"] for row in rows] == [0, 1]
    for row in rows:
        found = {key.rpartition("/")[2]: value for key, value in row.items() if "contact_sheet" in key}
        found = found.get("contact_sheet", found)
        assert found["captions"] == ["3", "7"] * 4
        assert found["count"] == 8
    assert rows[1]["iteration"] == 1
    assert "reward" in rows[1]


def test_of_a_long_list_some_are_shown_and_the_title_says_so(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(range(48)) == tuple(range(48))
    few = chosen(range(5, 10_005))
    assert len(set(few)) == len(few) == 48
    assert (few[0], few[1] - few[0], few[-1]) == (5, 208, 5 + 47 * 10_000 // 48)
    assert chosen([4]) == (4,) * 8
    assert chosen([4, 6, 8]) == (4, 6, 8) * 2
    monkeypatch.setattr(sheets, "SHOWN", 4)
    titles: list[str] = []
    monkeypatch.setattr(sheets, "sheet", lambda images, captions, title, path: titles.append(title))
    fitted(tmp_path, BRIGHT, DIGITS, "plan.iterations=1", "plan.sheet_every=1")
    assert titles == ["iteration 0: 4 of 10 prompts", "iteration 1: 4 of 10 prompts"]
    assert [caption for _, caption in seen.shown[0][1]] == ["0", "2", "5", "7"]


def test_a_sheet_that_fails_stops_nothing(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*given: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sheets, "sheet", full)
    assert int(fitted(tmp_path, BRIGHT, "plan.iterations=1", "plan.sheet_every=1").iterations) == 1
    said = "error: contact sheet of iteration 1: OSError: No space left on device; training goes on"
    assert said in capsys.readouterr().err


def test_samples_that_are_no_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["experiment=oracle/linear", "plan.sheet_every=1", "plan.iterations=1", "name=x"]
    assert cli.main(tiny(*words)) == 2
    assert "gives points: set it to 0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_captions_are_under_the_images_whatever_they_say(tmp_path: Path) -> None:
    """Two rows of white images: ink is below each, nothing above the first row but the title. A prompt with dollar signs is no
    formula, and a long one is cut."""
    texts = ["a $_$ sign", "word " * 100, *["cat"] * 14]
    sheet(torch.full((16, 1, 28, 28), 255, dtype=torch.uint8), texts, "iteration 3", tmp_path / "x.png")
    grey = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    ink = (grey < 200).any(1).nonzero()[0]
    lines = np.split(ink, np.nonzero(np.diff(ink) > 20)[0] + 1)  # a gap is as high as an image
    assert len(lines) == 3
    assert lines[1][-1] - lines[1][0] > 30  # four lines of the long one
    assert lines[2][-1] - lines[2][0] < 15


def test_a_sheet_is_in_colour(tmp_path: Path) -> None:
    red = torch.zeros(3, 3, 200, 100, dtype=torch.uint8)
    red[:, 0] = 255
    sheet(red, [""] * 3, "", tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    assert ((pixels == [255, 0, 0]).all(-1)).mean() > 0.8
