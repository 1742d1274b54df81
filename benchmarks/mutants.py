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
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
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
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType, ModuleType

import numpy as np  # noqa: F401 (loaded before the forks, as all that the tests need)
import PIL.Image  # noqa: F401
import pytest
import torch
from hypothesis import Phase, settings
from mutations import Key, Mutant, changed_function, functions_of, key_of, makes_the_change, mutants, swap

ROOT = Path(__file__).resolve().parents[1]
JUDGED = ROOT / "docs" / "mutants.md"
WANTED = 0.9  # the share of a module's mutants that tests have to kill
PATIENCE = 10.0  # seconds beyond four times what the unchanged module's tests take
MEMORY = 6 << 30  # bytes of addresses a child may take beyond its parent's

TRACE = " ".join(f"tests/trace/test_{name}.py" for name in ("rules", "joins", "outputs", "walk", "record"))

WHOLE_RUNS = " ".join(  # take minutes, and see little of these modules
    f"--deselect=tests/train/test_{name}"
    for name in (
        "chain.py::test_one_command_runs_the_chain_and_resumes_it",
        "average.py::test_a_run_with_an_average_delivers_it_and_resumes_to_the_same",
        "average.py::test_a_clipped_gradient_moves_less",
    )
)

TESTS = {
    "geometry": "tests/test_geometry.py",
    "tiles": "tests/test_tiles.py",
    "upsample": "tests/test_upsample.py",
    "losses/pixel": "tests/test_losses.py",
    "losses/upsampled": "tests/test_upsampled_loss.py",
    "losses/overlap": "tests/test_overlap_losses.py",
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
    "train/start": "tests/train/test_start.py",
    "train/average": f"tests/train/test_average.py {WHOLE_RUNS}",
    "train/chain": f"tests/train/test_chain.py {WHOLE_RUNS}",
    **{f"trace/{name}": TRACE for name in ("axes", "frames", "joins", "nodes", "positions", "products", "reductions")},
    **{f"trace/{name}": TRACE for name in ("settle", "walking", "windows", "recorder")},
    "trace/operations": TRACE + " tests/trace/test_spellings.py",
}
"""The tests of each module, beside its own doctests."""

HYPOTHESIS = ("--hypothesis-profile=mutants", "--hypothesis-seed=0")
# A failing example is not made smaller: that it fails is enough.
settings.register_profile(
    "mutants", deadline=None, database=None, phases=(Phase.explicit, Phase.generate), max_examples=50
)


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
    path = file_of(module)

    def job() -> int:
        bound_memory()
        finder = _Finder("fullyconv." + module.replace("/", "."), path, code)
        sys.meta_path.insert(0, finder)
        importlib.import_module(finder.name)  # whoever imports it from now on, by whatever way, gets this one
        return int(pytest.main(arguments_for([module])))

    return in_fork(job, limit) == 0


@contextmanager
def calls_noted(functions: set[Key], noted: set[Key]) -> Iterator[None]:
    """Note which of some functions are called; what lies in one ("outer.<locals>.inner") belongs to it."""
    files = {key[0] for key in functions}
    outer = {key[:2]: key for key in functions}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in files:
            file, name, _ = key_of(frame.f_code)
            key = outer.get((file, name)) or outer.get((file, name.partition(".<locals>")[0]))
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
class Module:
    """A module's mutants: in how many ``places`` it can be changed, those that are tested, and what became of them."""

    name: str
    mutants: list[Mutant]
    places: int
    slow: list[Mutant] = field(default_factory=list)  # of which only importing the module anew shows what they do
    survivors: list[Mutant] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = file_of(self.name)
        self.code = compile(path.read_text(), str(path), "exec")

    def share(self, *, so_far: int | None = None) -> str:
        """Return how many are killed, of all or of those tested so far, in words."""
        count = len(self.mutants) if so_far is None else so_far
        killed = count - len(self.survivors)
        left = "" if so_far is None else f", {len(self.slow)} still to be imported anew"
        return (
            f"{self.name}: {self.places} places, {count} mutants, {killed} killed ({killed / max(count, 1):.1%}){left}"
        )

    def survived(self, mutant: Mutant) -> None:
        """Keep a survivor and say so."""
        self.survivors.append(mutant)
        print(f"{self.name}.py:{mutant.line}: {mutant.before}\n    {mutant.after}", flush=True)


@dataclass
class Trials:
    """Tests the mutants of modules that have the same tests, within one pytest session."""

    modules: list[Module]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.imported: set[Key] = set()  # functions that importing the modules calls
        self.known = {key for module in self.modules for key, _ in functions_of(module.code)}

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        """Note what is called as the modules are imported."""
        with calls_noted(self.known, self.imported):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests once, then those of each mutant's function."""
        start = time.monotonic()
        facts = self._first_run(session)
        self.seconds = time.monotonic() - start
        print(f"{len(session.items)} tests take {self.seconds:.1f} s", flush=True)
        for module in self.modules:
            for mutant in module.mutants:
                self._test(session, facts, module, mutant)
            print(module.share(so_far=len(module.mutants) - len(module.slow)), flush=True)
        return True

    def _test(
        self, session: pytest.Session, facts: list[tuple[float, set[Key]]], module: Module, mutant: Mutant
    ) -> None:
        key = changed_function(module.code, mutant.code)
        verdict: int | None = IMPOSSIBLE
        if key is not None and (key not in self.imported or makes_the_change(key, module.code, mutant.code)):
            items = sorted((seconds, index) for index, (seconds, called) in enumerate(facts) if key in called)
            chosen = [session.items[index] for _, index in items]
            limit = 4 * sum(seconds for seconds, _ in items) + PATIENCE
            verdict = in_fork(partial(_trial, key, mutant, chosen), limit)
        if verdict == IMPOSSIBLE:
            module.slow.append(mutant)
        elif verdict == 0:
            module.survived(mutant)

    def _first_run(self, session: pytest.Session) -> list[tuple[float, set[Key]]]:
        """Return of each test how long it takes and which functions of the modules it calls."""
        with tempfile.NamedTemporaryFile("w+") as notes:

            def job() -> int:
                for item in session.items:
                    called: set[Key] = set()
                    start = time.monotonic()
                    with calls_noted(self.known, called):
                        failed = run_items([item])
                    notes.write(json.dumps([time.monotonic() - start, sorted(called), item.nodeid]) + "\n")
                    notes.flush()
                    if failed:
                        return 1
                return 0

            status = in_fork(job, 1800)
            lines = [json.loads(line) for line in Path(notes.name).read_text().splitlines()]
        if status != 0:
            raise SystemExit(f"as it is, {lines[-1][2] if lines else 'the first test'} fails")
        return [(seconds, {(file, name, line) for file, name, line in called}) for seconds, called, _ in lines]


def _trial(key: Key, mutant: Mutant, items: list[pytest.Item]) -> int:
    bound_memory()
    return run_items(items) if swap(key, mutant.code) else IMPOSSIBLE


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


def file_of(module: str) -> Path:
    """Return a module's file."""
    return ROOT / "src" / "fullyconv" / f"{module}.py"


def arguments_for(modules: Sequence[str]) -> list[str]:
    """Return pytest's arguments for the doctests of modules, which are the quickest, and the tests they share."""
    options = ["-x", "-qq", "-s", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", *HYPOTHESIS]
    return [*options, *(str(file_of(module)) for module in modules), *TESTS[modules[0]].split()]


def forget() -> None:
    """Forget all modules that lie here: whoever imports them from now on loads them anew, and them alone."""
    for name, known in list(sys.modules.items()):
        file = getattr(known, "__file__", None)
        if name != "__main__" and (name.split(".")[0] == "fullyconv" or (file and ROOT in Path(file).parents)):
            del sys.modules[name]


def run(names: Sequence[str], *, most: int | None) -> list[Module]:
    """Test the mutants of modules that share their tests."""
    modules = [Module(name, *mutants(file_of(name), most=most)) for name in names]
    print(f"{', '.join(names)}: {sum(len(module.mutants) for module in modules)} mutants", flush=True)
    trials = Trials(modules)
    pytest.main(arguments_for(names), plugins=[trials])
    forget()
    for module in modules:
        for mutant in module.slow:
            if passes(module.name, mutant.code, limit=4 * trials.seconds + 3 * PATIENCE):
                module.survived(mutant)
    return modules


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
    for _, names in groupby(options.modules, TESTS.__getitem__):
        start = time.monotonic()
        for module in run(list(names), most=options.most):
            count, survivors = len(module.mutants), module.survivors
            killed = count - len(survivors)
            unjudged = [mutant for mutant in survivors if f"`{mutant.after}`" not in judged]
            failed |= bool(unjudged) or killed < WANTED * count
            unsaid = f"{len(survivors)} survived, {len(unjudged)} of them not judged in docs/mutants.md"
            print(f"{module.share()}, {unsaid}", flush=True)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
