"""Mutation testing: change one operator, number or statement of a module at a time; some test has to notice.

    python benchmarks/mutants.py geometry tiles      # these modules
    python benchmarks/mutants.py                     # all of TESTS

The mutations are cosmic-ray's (and the removal of a statement). Its own runner starts a process per mutant,
which would import PyTorch each time; here one process imports PyTorch and pytest and forks a child per
mutant, in which the module is loaded from its changed source and its tests run until the first that fails.
A mutant that no test notices survives. Survivors have to be judged in docs/mutants.md, by the line as it
reads mutated; the exit status is 1 where one is not, or where less than nine tenths of a module's are killed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import numpy as np  # noqa: F401 (loaded before the forks, as all that the tests need)
import parso.python.tree
import PIL.Image  # noqa: F401
import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[1]
JUDGED = ROOT / "docs" / "mutants.md"
WANTED = 0.9  # the share of a module's mutants that tests have to kill
PATIENCE = 10.0  # seconds beyond four times what the unchanged module's tests take
MEMORY = 6 << 30  # bytes of addresses a child may take beyond its parent's

TESTS = {
    "geometry": "tests/test_geometry.py",
    "tiles": "tests/test_tiles.py",
    "upsample": "tests/test_upsample.py",
    "losses": "tests/test_losses.py",
    "scores/metrics": "tests/scores/test_metrics.py",
    "scores/boundary": "tests/scores/test_boundary.py",
    "augment": "tests/test_augment.py",
    "files": "tests/test_files.py",
    "crf/meanfield": "tests/crf/test_meanfield.py",
    "train/run": "tests/train/test_run.py",
    "train/pictures": "tests/train/test_pictures.py",
    "train/optim": "tests/train/test_optim.py tests/train/test_caffe_sgd.py",
    "trace/windows": "tests/trace",
    "trace/frames": "tests/trace",
    "trace/axes": "tests/trace",
    "trace/settle": "tests/trace",
}
"""The tests of each module, beside its own doctests."""

HYPOTHESIS = ("--hypothesis-profile=mutants", "--hypothesis-seed=0")
# A failing example is not made smaller: that it fails is enough.
settings.register_profile(
    "mutants", deadline=None, database=None, phases=(Phase.explicit, Phase.generate), max_examples=50
)

ARITHMETIC = {
    "Add": ("Sub",), "Sub": ("Add",), "Mul": ("Div", "Add"), "Div": ("Mul", "FloorDiv"), "FloorDiv": ("Div", "Mul"),
    "Mod": ("FloorDiv",), "Pow": ("Mul",), "BitOr": ("BitAnd",), "BitAnd": ("BitOr",), "BitXor": ("BitOr",),
    "LShift": ("RShift",), "RShift": ("LShift",),
}  # fmt: skip
"""What an operator is replaced by: cosmic-ray's other replacements (% for +, ...) die of the first test."""


class DropStatement(Operator):
    """Leave out a call, an assignment in place or a raise; cosmic-ray has nothing of the kind."""

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Find statements whose absence leaves a module that can be compiled."""
        if node.type != "simple_stmt":
            return
        (statement, *_) = node.children
        in_place = statement.type == "expr_stmt" and statement.children[1].type in ("annassign", "operator")
        in_place = in_place and str(getattr(statement.children[1], "value", "=")) != "="
        called = statement.type == "atom_expr" or in_place
        if called or statement.type == "raise_stmt" or getattr(statement, "value", "") == "raise":
            yield node.start_pos, node.end_pos

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        """Put ``pass`` in the statement's place."""
        first = node.get_first_leaf()
        node.children[0] = parso.python.tree.Keyword("pass", first.start_pos, first.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """Return none: cosmic-ray tests its own operators by them."""
        return ()


@dataclass(frozen=True)
class Mutant:
    """A changed module: where, what the line reads now, the whole source."""

    line: int
    before: str
    after: str
    code: CodeType


def operators() -> Iterator[Operator]:
    """Choose cosmic-ray's operators that make sense here, and ours."""
    for name in operator_names():
        kind = name.removeprefix("core/")
        if kind.startswith("ReplaceBinaryOperator_"):
            _, old, new = kind.split("_")
            chosen = new in ARITHMETIC.get(old, ())
        elif kind.startswith("ReplaceComparisonOperator_"):
            _, old, new = kind.split("_")
            chosen = (old in ("Is", "IsNot")) == (new in ("Is", "IsNot"))
        else:
            chosen = kind not in ("VariableReplacer", "VariableInserter", "NoOp", "ReplaceUnaryOperator_USub_Not")
        if chosen:
            yield get_operator(name)()
    yield DropStatement()


def mutants(path: Path) -> list[Mutant]:
    """Make every mutant of a module that differs from it in what it does; annotations and docstrings do nothing."""
    source = path.read_text()
    seen, found = {_meaning(source)}, []
    for operator in operators():
        for occurrence in range(10_000):
            changed = mutate_code(source, operator, occurrence)
            if changed is None:
                break
            try:
                meaning, code = _meaning(changed), compile(changed, str(path), "exec")
            except (SyntaxError, ValueError):
                continue
            if meaning in seen:
                continue
            seen.add(meaning)
            pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
            line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
            if not _style(before, after):
                found.append(Mutant(line, before.strip(), after.strip(), code))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.after))


def _style(before: str, after: str) -> bool:
    """Return whether a change is one of what callers may do (assign fields, pass by position), not of a value."""
    return before.startswith("@dataclass(") or (", *, " in before and ", /, " in after)


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


@dataclass
class _Finder(importlib.abc.MetaPathFinder):
    """Load one module from the mutant's code."""

    name: str
    path: Path
    code: CodeType

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the mutated module alone."""
        if name != self.name:
            return None
        loader = _Loader(name, str(self.path), self.code)
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def in_fork(job: Callable[[], int], limit: float) -> int | None:
    """Run a job in a child of its own process group; gives its exit status, ``None`` past ``limit`` seconds."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        status = 99
        try:
            status = job()
        finally:
            os._exit(status)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def passes(module: str, code: CodeType, *, limit: float) -> bool:
    """Return whether the tests of a module pass with other code in its place."""
    path = ROOT / "src" / "fullyconv" / f"{module}.py"

    def job() -> int:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        finder = _Finder("fullyconv." + module.replace("/", "."), path, code)
        sys.meta_path.insert(0, finder)
        importlib.import_module(finder.name)  # whoever imports it from now on, by whatever way, gets this one
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", *HYPOTHESIS]
        tests = [str(path), *TESTS[module].split()]  # doctests first: they are the quickest
        return int(pytest.main([*options, *tests]))

    return in_fork(job, limit) == 0


def warm_up(module: str) -> None:
    """Import what the tests of a module import, then forget all that lies here: children load it anew, and it alone."""
    with open(os.devnull, "w") as silence, redirect_stdout(silence):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TESTS[module].split()])
    for name, known in list(sys.modules.items()):
        file = getattr(known, "__file__", None)
        if name != "__main__" and (name.split(".")[0] == "fullyconv" or (file and ROOT in Path(file).parents)):
            del sys.modules[name]


def run(module: str, *, most: int | None) -> tuple[int, list[Mutant]]:
    """Test a module's mutants; gives how many there were and those that survived."""
    path = ROOT / "src" / "fullyconv" / f"{module}.py"
    warm_up(module)
    start = time.monotonic()
    if not passes(module, compile(path.read_text(), str(path), "exec"), limit=600):
        raise SystemExit(f"{module}: its tests fail as it is")
    usual = time.monotonic() - start
    made = mutants(path)
    if most is not None and len(made) > most:
        made = sorted(random.Random(0).sample(made, most), key=lambda mutant: mutant.line)
    survivors = []
    print(f"{module}: {len(made)} mutants, {usual:.1f} s for the tests of the module as it is", flush=True)
    for mutant in made:
        if passes(module, mutant.code, limit=4 * usual + PATIENCE):
            survivors.append(mutant)
            print(f"{module}.py:{mutant.line}: {mutant.before}\n    {mutant.after}", flush=True)
    return len(made), survivors


def main() -> int:
    """Run the modules that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="such as geometry; all where none is named")
    parser.add_argument("--most", type=int, help="test so many mutants of a module, drawn at random (seed 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(ROOT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    judged = JUDGED.read_text() if JUDGED.is_file() else ""
    failed = False
    for module in options.modules:
        start = time.monotonic()
        count, survivors = run(module, most=options.most)
        killed = count - len(survivors)
        unjudged = [mutant for mutant in survivors if f"`{mutant.after}`" not in judged]
        failed |= bool(unjudged) or killed < WANTED * count
        share = killed / max(count, 1)
        print(
            f"{module}: {count} mutants, {killed} killed ({share:.1%}), {len(survivors)} survived, "
            f"{len(unjudged)} of them not judged in docs/mutants.md; {time.monotonic() - start:.0f} s",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
