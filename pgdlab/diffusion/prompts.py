"""Prompts: read from files, encoded once by the pipeline itself, and kept where they cost a pass nothing."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from pgdlab.config.program import located
from pgdlab.diffusion.asked import Asked
from pgdlab.diffusion.asking import Caller, Leaf, Tape, network_of
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.mapped import aside, stacked

CHUNK = 8  # prompts that are encoded at a time
IN_MEMORY = 2**28  # bytes of encodings that may lie in the host's memory; more go to a file that memory is mapped to
PORTION = 2**24  # numbers that are read at a time
ON_THE_DEVICE = 2**30  # bytes of encodings that may lie beside the network; more stay in the host's memory
Entries = Tensor | list[Any]
Rows = dict[Leaf, list[Any]]  # of every prompt, by argument


def read_prompts(given: str | Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Prompts and what is known of each besides. given: a list, or a file: .jsonl, an object with a "prompt" a line; .yaml, a
    list of texts; any other, a text a line. Empty lines are left out. Raises ValueError where there are none."""
    if not isinstance(given, str):
        entries: list[Any] = list(given)
    else:
        path = located(given)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"prompts is {given!r}, and that file cannot be read: {error}") from error
        entries = parsed(text, path)
    facts = [dict(entry) if isinstance(entry, Mapping) else {"prompt": entry} for entry in entries]
    wrong = [entry for entry in facts if not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip()]
    if wrong or not facts:
        raise ValueError(
            f"prompts must be texts, at least one; {f'there is {wrong[0]!r}' if wrong else f'{given!r} has none'}"
        )
    texts = [entry["prompt"].strip() for entry in facts]
    return texts, [{k: v for k, v in entry.items() if k != "prompt"} for entry in facts]


def parsed(text: str, path: Path) -> list[Any]:
    """The entries of a file. Raises ValueError naming the line that is wrong."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if path.suffix == ".jsonl":
        return [of_json(line, f"{path}, line {n}") for n, line in lines]
    if path.suffix in (".yaml", ".yml"):
        import yaml

        found = yaml.safe_load(text)
        if not isinstance(found, list):
            raise ValueError(f"{path} must be a list of prompts")
        return found
    return [line for _, line in lines]


def of_json(line: str, place: str) -> Any:
    """The object of a line."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{place} is {line}; it must be an object with a prompt")
    return found


class Prompts(Conditioning):
    """The encodings of numbered prompts, for every branch of the network's calls. metadata: what a prompt's file says of it
    besides.

    They are no weights: copies of a model share them, and checkpoints do not hold them.
    """

    def __init__(
        self, size: int, texts: tuple[str, ...] | None, metadata: Sequence[Mapping[str, Any]],
        branches: Sequence[Mapping[Leaf, Entries]],
    ) -> None:  # fmt: skip
        super().__init__(size, texts)
        self.metadata, self.branches = tuple(metadata), tuple(dict(branch) for branch in branches)
        self.fingerprint = fingerprint(self.branches)

    def __deepcopy__(self, memo: dict[int, Any]) -> Prompts:
        return self

    @property
    def bytes(self) -> int:
        """Memory of all encodings."""
        return sum(
            v.untyped_storage().nbytes() for branch in self.branches for v in branch.values() if isinstance(v, Tensor)
        )

    def rows(self, branch: int, cond: Int[Tensor, " P"]) -> dict[Leaf, Entries]:
        """What the network is given of P prompts in a branch, by argument."""
        return {path: self.picked(branch, path, cond) for path in self.branches[branch]}

    def picked(self, branch: int, path: Leaf, cond: Int[Tensor, " P"]) -> Entries:
        """The rows of an argument, each prompt's moved once."""
        entries = self.branches[branch][path]
        if isinstance(entries, list):
            return [moved(entries[i], cond.device) for i in cond.tolist()]
        if entries.stride(0) == 0:  # the same for all prompts
            return entries[:1].to(cond.device).expand(len(cond), *entries.shape[1:])
        if self.bytes <= ON_THE_DEVICE and entries.device != cond.device:
            entries = self.branches[branch][path] = entries.to(cond.device)  # once, so that no pass waits for a copy
        if entries.device == cond.device:
            return entries.index_select(0, cond)
        used, place = cond.unique(return_inverse=True)
        return entries[used.cpu()].to(cond.device, non_blocking=True).index_select(0, place)

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        return {
            f"{b}.{'.'.join(path)}": rows
            for b in range(len(self.branches))
            for path, rows in self.rows(b, cond).items()
            if isinstance(rows, Tensor)
        }


def fingerprint(branches: Sequence[Mapping[Leaf, Entries]]) -> UInt8[Tensor, " 32"]:
    """SHA-256 of all encodings, to know prompts again."""
    found = hashlib.sha256()
    for branch in branches:
        for path, entries in branch.items():
            found.update(".".join(path).encode())
            for one in entries if isinstance(entries, list) else [entries[:1] if entries.stride(0) == 0 else entries]:
                if isinstance(one, Tensor):
                    for part in one.contiguous().flatten().split(PORTION):
                        plain = part.clone(memory_format=torch.contiguous_format)  # a single number may have no stride
                        found.update(plain.view(torch.uint8).numpy())
                else:
                    found.update(repr(one).encode())
    return torch.tensor(list(found.digest()), dtype=torch.uint8)


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device; anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def encode(
    caller: Caller, asked: Asked, texts: tuple[str, ...] | None, metadata: Sequence[Mapping[str, Any]]
) -> Prompts:
    """Encodes all prompts of a caller, by dry calls; more than IN_MEMORY are put aside on the way. Raises ValueError for
    encodings of different sizes without a mask."""
    count, first, held = len(caller.prompts), 0, 0
    kept: list[Rows] = [{} for call in asked.calls for _ in range(call.blocks)]
    for start in range(0, count, CHUNK):
        tape = caller.tape(range(count)[start : start + CHUNK], 1)
        for branch, given in zip(kept, blocks(asked, tape), strict=True):
            for path, rows in given.items():
                branch.setdefault(path, []).extend(rows)
                held += sum(row.nbytes for row in rows if isinstance(row, Tensor))
        if held > IN_MEMORY:
            put_aside(kept, first)
            first, held = start + tape.rows, 0
    takes = inspect.signature(network_of(caller.pipe)[1].forward).parameters
    lists = {path for k in range(len(asked.calls)) for path, value in tape.given(k).items() if isinstance(value, list)}
    return Prompts(count, texts, metadata, [tables(branch, takes, lists, large=first > 0) for branch in kept])


def put_aside(kept: Sequence[Rows], first: int) -> None:
    """Puts the rows of the prompts from `first` on into a file, and its tensors in their place."""
    rest = [(rows, i) for branch in kept for rows in branch.values() for i in range(first, len(rows))]
    tensors = [(rows, i) for rows, i in rest if isinstance(rows[i], Tensor)]
    for (rows, i), there in zip(tensors, aside([rows[i] for rows, i in tensors]), strict=True):
        rows[i] = there


def blocks(asked: Asked, tape: Tape) -> list[Rows]:
    """The rows of every branch of a dry call, on the host; None for those of a mask that this call was not given."""
    found, host = [], torch.device("cpu")
    for k, call in enumerate(asked.calls):
        given = tape.given(k)
        masks = [mask_of(path) for path in call.rows]
        for j in range(call.blocks):
            own, rows = slice(j * tape.rows, (j + 1) * tape.rows), {}
            for path in dict.fromkeys([*call.rows, *masks]):
                has = given.get(path)
                rows[path] = [None] * tape.rows if has is None else [moved(v, host) for v in has[own]]
            found.append(rows)
    return found


def mask_of(path: Leaf) -> Leaf:
    """The argument that says which entries of another one count, where the network has one."""
    return (*path[:-1], f"{path[-1]}_mask")


def tables(branch: Rows, takes: Collection[str], lists: Collection[Leaf], large: bool) -> dict[Leaf, Entries]:
    """All prompts' rows of every argument. takes: the arguments of the network; lists: those that are lists; large: see table().
    A mask that a pipeline leaves out where all entries count is put back where others need it."""
    made: dict[Leaf, Entries] = {path: branch[path] for path in branch if path in lists}
    for path, rows in branch.items():
        if path in made or all(row is None for row in rows):
            continue
        mask, ragged = mask_of(path), len({row.shape for row in rows}) > 1
        if mask in branch and (ragged or any(row is not None for row in branch[mask])) and mask[0] in takes:
            has = zip(rows, branch[mask], strict=True)
            branch[mask] = [row.new_ones(len(row), dtype=torch.long) if m is None else m for row, m in has]
        made[path] = table(rows, path, branch.get(mask, [None])[0] is not None or path[-1].endswith("_mask"), large)
    return made


def table(rows: list[Any], path: Leaf, masked: bool, large: bool) -> Entries:
    """All prompts' rows of an argument: one tensor, of one row where they are alike. Shorter ones are filled up with zeros where
    a mask says so. large: in a file. Raises ValueError where no mask does."""
    longest = 0
    if len({row.shape for row in rows}) > 1:
        if not masked:
            sizes = sorted({tuple(row.shape) for row in rows})
            raise ValueError(
                f"the prompts' {'.'.join(path)} are of different sizes ({sizes[0]}, {sizes[-1]}), without a mask: set "
                "max_sequence_length or padding in domain.call, or use prompts of one length"
            )
        longest = max(len(row) for row in rows)
    like = filled(rows[0], longest)
    if all(row is rows[0] or torch.equal(filled(row, longest), like) for row in rows):
        return like.clone()[None].expand(len(rows), *like.shape)
    whole = (filled(row, longest) for row in rows)
    return stacked(whole, like) if large else torch.stack(list(whole))


def filled(row: Tensor, length: int) -> Tensor:
    """A row filled up with zeros to a length; 0 for as it is."""
    return torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])]) if length else row
