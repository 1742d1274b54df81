"""Mutation testing: change one operator, number or statement of a module at a time; some test has to notice.

    python benchmarks/mutants.py geometry tiles      # these modules
    python benchmarks/mutants.py                     # all of TESTS

The mutations are cosmic-ray's (and the removal of a statement). Its own runner starts a process per mutant,
which would import PyTorch and collect the tests each time. Here one process collects a module's tests, runs
them once to see how long each takes and which functions of the module it calls, and forks a child per mutant:
the child puts the changed code into the function that is there, and runs the tests that call it, the quickest
first, until one fails. Where the change shows only when the module is imported, the child imports it anew from
its changed source and runs all of its tests. A mutant that no test notices survives. Survivors have to be
judged in docs/mutants.md, by the line as it reads mutated; the exit status is 1 where one is not, or where
less than nine tenths of a module's are killed.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

import numpy as np  # noqa: F401 (loaded before the forks, as all that the tests need)
import parso.python.tree
import PIL.Image  # noqa: F401
import pytest
import torch
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[1]
JUDGED = ROOT / "docs" / "mutants.md"
WANTED = 0.9  # the share of a module's mutants that tests have to kill
PATIENCE = 10.0  # seconds beyond four times what the unchanged module's tests take
MEMORY = 6 << 30  # bytes of addresses a child may take beyond its parent's

TRACE = " ".join(f"tests/trace/test_{name}.py" for name in ("outputs", "walk", "record", "spellings"))
"""The quickest first."""

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
    "train/batches": "tests/train/test_batches.py",
    "train/checkpoints": "tests/train/test_checkpoints.py",
    "train/stop": "tests/train/test_stop.py",
    "train/smallest": "tests/train/test_smallest.py",
    "train/chain": "tests/train/test_chain.py",
    **{f"trace/{name}": TRACE for name in ("axes", "frames", "joins", "nodes", "operations", "positions", "products")},
    **{f"trace/{name}": TRACE for name in ("recorder", "reductions", "settle", "walking", "windows")},
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


def mutants(path: Path, *, most: int | None = None) -> tuple[list[Mutant], int]:
    """Make mutants of a module that differ from it in what it does; annotations and docstrings do nothing.

    Gives all of them, or ``most`` drawn at random (seed 0), and in how many places something can be changed.
    """
    source = path.read_text()
    nodes = list(ast_nodes(get_ast(source)))
    places = [
        (operator, place)
        for operator in operators()
        for place in range(sum(sum(1 for _ in operator.mutation_positions(node)) for node in nodes))
    ]
    random.Random(0).shuffle(places)
    seen, found = {_meaning(source)}, []
    for operator, place in places:
        mutant = _mutant(path, source, operator, place, seen)
        if mutant is not None:
            found.append(mutant)
        if len(found) == most:
            break
    return sorted(found, key=lambda mutant: (mutant.line, mutant.after)), len(places)


def _mutant(path: Path, source: str, operator: Operator, place: int, seen: set[str]) -> Mutant | None:
    changed = mutate_code(source, operator, place)
    try:
        meaning, code = _meaning(changed), compile(changed, str(path), "exec")
    except (SyntaxError, ValueError):
        return None
    if meaning in seen:
        return None
    seen.add(meaning)
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return None if _style(before, after) else Mutant(line, before.strip(), after.strip(), code)


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
        bound_memory()
        finder = _Finder("fullyconv." + module.replace("/", "."), path, code)
        sys.meta_path.insert(0, finder)
        importlib.import_module(finder.name)  # whoever imports it from now on, by whatever way, gets this one
        return int(pytest.main(arguments_for(module)))

    return in_fork(job, limit) == 0


Key = tuple[str, int]
"""A function of the module: its qualified name and first line."""


def functions_of(code: CodeType) -> Iterator[tuple[Key, CodeType]]:
    """List the outermost functions of a module's code; what lies in a function belongs to it."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_flags & CO_OPTIMIZED:
            yield (constant.co_qualname, constant.co_firstlineno), constant
        elif isinstance(constant, CodeType):
            yield from functions_of(constant)


def shape_of(code: CodeType, *, deep: bool) -> tuple[object, ...]:
    """Return what a code does; that of the functions in it only if ``deep``."""

    def shallow(constant: object) -> object:
        if not isinstance(constant, CodeType):
            return type(constant).__name__, repr(constant)
        return shape_of(constant, deep=deep) if deep or not constant.co_flags & CO_OPTIMIZED else "function"

    return code.co_code, code.co_names, code.co_varnames, tuple(map(shallow, code.co_consts))


def changed_function(original: CodeType, mutant: CodeType) -> Key | None:
    """Return the one function whose code a mutant changes; ``None`` where it changes what importing the module does."""
    if shape_of(original, deep=False) != shape_of(mutant, deep=False):
        return None
    pairs = zip(functions_of(original), functions_of(mutant), strict=True)
    return next(key for (key, one), (_, other) in pairs if shape_of(one, deep=True) != shape_of(other, deep=True))


def swap(path: Path, key: Key, mutant: CodeType) -> bool:
    """Put a mutant's code into a function, and into the functions it has made; returns whether that was possible."""
    replacing = dict(_nested(next(code for name, code in functions_of(mutant) if name == key)))
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == str(path):
            code = function.__code__
            new = replacing.get((code.co_qualname, code.co_firstlineno))
            if new is not None:
                if code.co_freevars != new.co_freevars:
                    return False
                function.__code__ = new
    return True


def _nested(code: CodeType) -> Iterator[tuple[Key, CodeType]]:
    yield (code.co_qualname, code.co_firstlineno), code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


@contextmanager
def calls_noted(path: Path, functions: set[Key], noted: set[Key]) -> Iterator[None]:
    """Note which functions of a module are called, by what lies in them too."""
    outer = {key[0]: key for key in functions}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == str(path):
            name = frame.f_code.co_qualname
            # "outer.<locals>.inner" belongs to "outer"
            key = outer.get(name) or outer.get(name.partition(".<locals>")[0])
            if key is not None:
                noted.add(key)

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@dataclass
class Trials:
    """Tests the mutants of a module within one pytest session; ``slow`` and ``survivors`` are what is left of them."""

    path: Path
    mutants: list[Mutant]
    slow: list[Mutant] = field(default_factory=list)
    survivors: list[Mutant] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.code = compile(self.path.read_text(), str(self.path), "exec")
        self.imported: set[Key] = set()  # functions that importing the module calls
        self.known = {key for key, _ in functions_of(self.code)}

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        """Note what is called as the module is imported."""
        with calls_noted(self.path, self.known, self.imported):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests once, then those of each mutant's function."""
        start = time.monotonic()
        facts = self._first_run(session)
        self.seconds = time.monotonic() - start
        print(f"{len(session.items)} tests take {self.seconds:.1f} s", flush=True)
        for mutant in self.mutants:
            key = changed_function(self.code, mutant.code)
            if key is None or key in self.imported:
                self.slow.append(mutant)
                continue
            items = sorted((seconds, index) for index, (seconds, called) in enumerate(facts) if key in called)
            chosen = [session.items[index] for _, index in items]
            limit = 4 * sum(pair[0] for pair in items) + PATIENCE
            verdict = in_fork(partial(self._trial, mutant, key, chosen), limit)
            if verdict == IMPOSSIBLE:
                self.slow.append(mutant)
            elif verdict == 0:
                self.survived(mutant)
        return True

    def survived(self, mutant: Mutant) -> None:
        """Keep a survivor and say so."""
        self.survivors.append(mutant)
        print(f"{self.path.name}:{mutant.line}: {mutant.before}\n    {mutant.after}", flush=True)

    def _trial(self, mutant: Mutant, key: Key, items: list[pytest.Item]) -> int:
        bound_memory()
        return run_items(items) if swap(self.path, key, mutant.code) else IMPOSSIBLE

    def _first_run(self, session: pytest.Session) -> list[tuple[float, set[Key]]]:
        """Return of each test how long it takes and which functions of the module it calls."""
        with tempfile.NamedTemporaryFile("w+") as notes:

            def job() -> int:
                for item in session.items:
                    called: set[Key] = set()
                    start = time.monotonic()
                    with calls_noted(self.path, self.known, called):
                        failed = run_items([item])
                    if failed:
                        print(item.nodeid, file=sys.__stderr__)
                        return 1
                    notes.write(json.dumps([time.monotonic() - start, sorted(called)]) + "\n")
                notes.flush()
                return 0

            if in_fork(job, 1800) != 0:
                raise SystemExit(f"{self.path}: its tests fail as it is")
            lines = [json.loads(line) for line in Path(notes.name).read_text().splitlines()]
        return [(seconds, {(name, line) for name, line in called}) for seconds, called in lines]


IMPOSSIBLE = 98  # the exit status of a child whose mutant has to be imported


def run_items(items: Sequence[pytest.Item]) -> int:
    """Run tests until one fails; returns 1 if one does. What they share is set up anew and never torn down."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return 1
    return 0


def bound_memory() -> None:
    """Let this process take no more than ``MEMORY`` beyond what it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def arguments_for(module: str) -> list[str]:
    """Return pytest's arguments for a module's doctests, which are the quickest, and its tests."""
    options = ["-x", "-qq", "-s", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", *HYPOTHESIS]
    return [*options, str(ROOT / "src" / "fullyconv" / f"{module}.py"), *TESTS[module].split()]


def forget() -> None:
    """Forget all modules that lie here: whoever imports them from now on loads them anew, and them alone."""
    for name, known in list(sys.modules.items()):
        file = getattr(known, "__file__", None)
        if name != "__main__" and (name.split(".")[0] == "fullyconv" or (file and ROOT in Path(file).parents)):
            del sys.modules[name]


def run(module: str, *, most: int | None) -> tuple[int, int, list[Mutant]]:
    """Test a module's mutants; gives in how many places it can be changed, how many were tested, which survived."""
    path = ROOT / "src" / "fullyconv" / f"{module}.py"
    made, places = mutants(path, most=most)
    print(f"{module}: {len(made)} mutants of {places} places", flush=True)
    trials = Trials(path, made)
    pytest.main(arguments_for(module), plugins=[trials])
    forget()
    print(f"{len(trials.slow)} mutants that importing shows", flush=True)
    for mutant in trials.slow:
        if passes(module, mutant.code, limit=4 * trials.seconds + 3 * PATIENCE):
            trials.survived(mutant)
    return places, len(made), trials.survivors


def main() -> int:
    """Run the modules that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="such as geometry; all where none is named")
    parser.add_argument("--most", type=int, help="test so many mutants of a module, drawn at random (seed 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # PyTorch takes seconds to load what shapes without contents need.
    torch.nn.Conv2d(1, 1, 1, device="meta")(torch.empty(1, 1, 1, 1, device="meta")).mean()
    os.chdir(ROOT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    judged = JUDGED.read_text() if JUDGED.is_file() else ""
    failed = False
    for module in options.modules:
        start = time.monotonic()
        places, count, survivors = run(module, most=options.most)
        killed = count - len(survivors)
        unjudged = [mutant for mutant in survivors if f"`{mutant.after}`" not in judged]
        failed |= bool(unjudged) or killed < WANTED * count
        share = killed / max(count, 1)
        print(
            f"{module}: {places} places, {count} mutants, {killed} killed ({share:.1%}), {len(survivors)} survived, "
            f"{len(unjudged)} of them not judged in docs/mutants.md; {time.monotonic() - start:.0f} s",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
