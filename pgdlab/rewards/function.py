"""Rewards of the user's own: a plain function `(samples, prompts) -> scores`, or a torchmetrics.Metric."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config import fingerprint
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.rewards.base import Reward, Score, ShapeError
from pgdlab.rewards.guard import quoted

Images = Literal["tensor", "pil"]


class Function(Reward):
    """A function `(samples, prompts) -> scores`, more is better, as a reward.

    samples: B of them, a copy: images as a tensor (B, C, H, W) of floats in 0..1, or with `images="pil"` as a list of PIL
    images; molecules as a list of RDKit molecules, None for an invalid one; points as a tensor (B, D). prompts: a list of B
    texts, or numbers where the domain has no texts, None for "no condition". scores: B real numbers, as a list, an array or a
    tensor; NaN or None where a sample could not be scored. A Score is taken as it is.

    function: `file.py:name`, `module:name`, or the function itself. A torchmetrics.Metric is one too: it is reset, updated with
    a batch of one sample (and its prompt, where update() takes two arguments) and computed, for every sample. batch: samples
    at a time, 0 for all. compares: whether a score depends on the other samples of the batch. differentiable: whether scores
    are a tensor with a gradient to the samples, as trainers that follow it need; not of PIL images or metrics. recorded: a
    function that a program handed over, in words: what a run folder says of it, which cannot be called. digest: of the
    function, by which it is known again, see pgdlab.config.fingerprint; it is found, and not given.
    """

    def __init__(
        self, *, function: str | Callable[..., Any] | None = None, images: Images = "tensor", batch: int = 0,
        compares: bool = False, differentiable: bool = False, recorded: str | None = None, digest: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if function is None and recorded is None:
            raise ValueError("function is missing: reward.function=my_file.py:my_reward, or module:name")
        if batch < 0 or (batch and compares):
            raise ValueError(f"batch is {batch}; it must be 0 or more samples, and 0 for a function that compares them")
        require_images(images)
        self.function = resolved(function) if isinstance(function, str) else function
        self.images, self.batch, self._compares = images, batch, compares
        if differentiable and (images == "pil" or is_metric(self.function)):
            what = "PIL images carry" if images == "pil" else "a metric carries"
            raise ValueError(f"differentiable is true, but {what} no gradient: give a function of tensors")
        self.differentiable = differentiable
        self.recorded = recorded if self.function is None else described(self.function)
        self.digest = digest if self.function is None else fingerprint.digest(self.function)
        self.arity = 0 if self.function is None else arguments(self.function)
        self.texts: tuple[str, ...] | None = None
        self.none: int | None = None

    @property
    def called(self) -> str:
        return str(self.recorded).partition(" ")[0]

    def compares(self) -> bool:
        return self._compares

    def meet(self, conditioning: Conditioning) -> None:
        self.texts, self.none = conditioning.texts, conditioning.unconditional

    def score(self, sample: Any, cond: Int[Tensor, " B"]) -> Score:
        self.require()
        assert self.function is not None
        samples, prompts = shown(sample, self.images), self.prompts(cond)
        if is_metric(self.function):
            returned: Any = [self.measured(samples[i : i + 1], prompts[i : i + 1]) for i in range(len(cond))]
        else:
            returned = self.function(samples, prompts)
        if isinstance(returned, Score):
            return returned
        if self.differentiable and isinstance(returned, Tensor):
            return Score.of(returned)
        return Score.of(numbers(returned, self.called).to(cond.device))

    def require(self) -> None:
        """Raises ShapeError where only the function's name is known: before anything is trained, and where it is called."""
        if self.function is None:
            raise ShapeError(
                f"this run's reward was the function {self.recorded}; a run folder's code is not executed: give it again, "
                "pgdlab.load(folder, reward=...) or pgdlab.train(resume=folder, reward=...)"
            )

    def prompts(self, cond: Int[Tensor, " B"]) -> list[Any]:
        """The texts of conditions, or their numbers; None for "no condition" without words."""
        if self.texts is not None:
            return [self.texts[c] for c in cond.tolist()]
        return [None if c == self.none else c for c in cond.tolist()]

    def measured(self, samples: Any, prompts: list[Any]) -> Any:
        """A metric of one sample, which remembers no other."""
        metric: Any = self.function
        metric.reset()
        metric.update(*(samples, prompts)[: self.arity])
        value = metric.compute()
        metric.reset()
        return value


def require_images(images: str) -> None:
    """Raises ValueError for a word that says nothing: it would mean tensors."""
    if images not in get_args(Images):
        raise ValueError(f"images is {images!r}; it must be one of {', '.join(get_args(Images))}")


def shown(sample: Any, images: Images = "tensor") -> Any:
    """Decoded samples as a function is given them: see Function. Raises ShapeError for pictures of what are no images."""
    if isinstance(sample, Tensor):
        return pictures(sample) if images == "pil" else sample
    if images == "pil":
        raise ShapeError("images is pil, but the samples are molecules: draw them with rdkit.Chem.Draw")
    from rdkit import Chem

    return [Chem.Mol(m.mol) if m.valid else None for m in sample]


def pictures(sample: Float[Tensor, "B C H W"]) -> list[Any]:
    """PIL images, grey or RGB."""
    from PIL import Image

    if sample.dim() != 4 or sample.shape[1] not in (1, 3):
        raise ShapeError(
            f"images is pil, but the samples have the shape {tuple(sample.shape[1:])}: no grey or RGB images"
        )
    levels = (sample.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in levels]


def numbers(returned: Any, name: str) -> Float[Tensor, "..."]:
    """Scores as a tensor, of whatever shape they have. Raises ShapeError for what are no real numbers."""
    if isinstance(returned, Tensor):
        return returned.detach()
    if returned is None or isinstance(returned, (str, bytes, dict, set)):
        what = "nothing" if returned is None else f"a {type(returned).__name__}"
        raise ShapeError(f"reward {name} returned {what}: return a list, an array or a tensor with a score a sample")
    try:
        listed = [one(x) for x in returned] if isinstance(returned, (list, tuple)) else returned
        array = np.asarray(listed)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"reward {name} returned scores that are no numbers: {quoted(error)}") from error
    if array.dtype.kind not in "biufc":
        raise ShapeError(f"reward {name} returned a {type(returned).__name__} of {array.dtype}, which are no numbers")
    return torch.from_numpy(array if array.dtype.kind == "c" else array.astype(np.float64))


def one(score: Any) -> Any:
    """A score of a list: a number out of a tensor, NaN for None."""
    if isinstance(score, Tensor):
        return score.detach().cpu().numpy()
    return np.nan if score is None else score


def is_metric(function: Any) -> bool:
    """Whether it is a torchmetrics.Metric. Nothing is imported: where there is one, torchmetrics is there."""
    library = sys.modules.get("torchmetrics")
    return library is not None and isinstance(function, library.Metric)


def arguments(function: Any) -> int:
    """How many arguments it is called with: two, or one for the update() of most metrics. Raises ValueError for others."""
    name = described(function)
    if isinstance(function, type):
        raise ValueError(f"{name} is a class; give an object of it")
    if not callable(function):
        raise ValueError(f"{function!r} is no reward: it must be a function (samples, prompts) -> scores")
    metric = is_metric(function)
    if metric and function.higher_is_better is False:
        raise ValueError(
            f"{name} is better where it is lower, and a reward is made higher: give a function of minus it"
        )
    try:
        parameters = inspect.signature(function.update if metric else function).parameters.values()
    except ValueError:  # written in C
        return 2
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    most = 10 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)
    needed_by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    wanted = min(2, max(1, needed)) if metric else 2
    if needed_by_name or not needed <= wanted <= most:
        raise ValueError(
            f"{name} must take two arguments, (samples, prompts); its own are {[p.name for p in parameters]}"
        )
    return wanted


def described(function: Any) -> str:
    """A function in words: its name and where it is."""
    own = isinstance(function, (type, FunctionType, BuiltinFunctionType, MethodType))
    thing = function if own else type(function)
    return f"{thing.__qualname__} of {thing.__module__}"


def resolved(path: str) -> Any:
    """The function of `file.py:name` or `module:name`. Raises ValueError where there is none."""
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise ValueError(f"function is {path!r}; it must be file.py:name or module:name")
    found: Any = executed(Path(place).expanduser()) if place.endswith(".py") else imported(place)
    for part in name.split("."):
        if part not in dir(found):
            defined = [n for n, x in vars(found).items() if callable(x) and not n.startswith("_")]
            raise ValueError(f"function is {path!r}, but {place} has no {name}; it has {', '.join(defined) or 'none'}")
        found = getattr(found, part)
    return found


def imported(name: str) -> ModuleType:
    """A module. Raises ValueError where it cannot be imported, whatever it raises."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"the module {name} cannot be imported: {quoted(error)}") from error


def executed(file: Path) -> ModuleType:
    """A file as a module, read anew each time; what lies beside it can be imported. Raises ValueError where it raises."""
    spec = importlib.util.spec_from_file_location(f"reward_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {file} with a reward function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be executed: {quoted(error)}") from error
    return module


def as_reward(given: Any, images: Images = "tensor") -> Reward:
    """A Reward as it is, anything else as a Function. Raises ValueError for what is neither."""
    if isinstance(given, Reward):
        if images != "tensor":
            raise ValueError("images is for functions; a Reward makes its own pictures")
        return given
    return Function(function=given, images=images)


def record(reward: Reward) -> dict[str, Any]:
    """What a run folder says of a reward that a program handed over: the node of a Function that must be given again."""
    known = reward if isinstance(reward, Function) else None
    return {
        "_target_": f"{Function.__module__}.{Function.__qualname__}",
        "function": None,
        "images": known.images if known else "tensor",
        "batch": known.batch if known else 0,
        "compares": reward.compares(),
        "differentiable": reward.differentiable,
        "recorded": known.recorded if known else described(reward),
        "digest": known.digest if known else fingerprint.digest(reward),
    }
