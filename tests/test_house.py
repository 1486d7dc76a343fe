"""The laws of the house, as tests.  CONTRIBUTING.md says why each is there.

A law that makes a piece of code worse is broken here, by name and with the reason, nowhere else.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zdfs import describe

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "zdfs").glob("**/*.py"))
TESTS = sorted((ROOT / "tests").glob("**/*.py"))
FUNCTION_LINES = 70
MODULE_LINES = 500

SEAMS = {"broker", "mount", "cli", "link"}  # law 5: these may catch everything

# Law 1: who may import what touches the world.
STORES = {"store", "blockstore", "index", "replay", "log", "disk", "upgrading"}
COMMANDS = {
    "cli",
    "node",
    "running",
    "tools",
    "progress",
    "up",
    "describe",
    "fsck",
    "corrupt",
    "journal",
}
DRIVERS = {"broker", "link", "listener", "outgoing", "asking", "gate", "dialing"}
KERNEL = {"mount", "kernel", "insight", "watchers", "workers", "starting"}
DOORS = {
    "zmq": DRIVERS | {"keymaking"},  # makes key pairs
    "lmdb": STORES,
    "mfusepy": {"fuse"},
    "msgpack": {"records"},
    "fastcrc": {"checksum"},
    "crcmod": {"checksum"},
    "time": DRIVERS | COMMANDS | STORES | KERNEL,
    "random": DRIVERS | COMMANDS | {"harming"},  # which bits are flipped, from a given seed
    "secrets": DRIVERS | COMMANDS | STORES | {"api"},
    "prometheus_client": {"measures", "exporter"},
    "asyncio": {"web"},  # starlette's and uvicorn's; no logic of ours runs in it
}
STORE_CLOCK = {"monotonic", "monotonic_ns"}  # all that store, log, kernel and mount want of time


def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def imported(module: ast.Module) -> Iterator[str]:
    """The first names of all imports, wherever they stand."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def where(path: Path, node: ast.AST) -> str:
    """A place that an editor can jump to."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def allows(door: str, path: Path) -> bool:
    """Whether a module may import it: by its name, or by its package's (store/log.py: store)."""
    return bool(DOORS[door] & inside(path))


def inside(path: Path) -> set[str]:
    """A module's name, and its packages'."""
    return set(path.relative_to(ROOT / "zdfs").with_suffix("").parts)


def test_no_module_swallows_the_rest() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert not {path.name: lines for path, lines in sizes.items() if lines > MODULE_LINES}


def test_functions_fit_a_screen() -> None:
    long = []
    for path in MODULES + TESTS:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{where(path, node)}: {node.name}, {lines} lines")
    assert not long


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)


def test_only_the_seams_catch_everything() -> None:
    for path in MODULES:
        if path.stem in SEAMS:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                assert not _is_broad(node), f"{where(path, node)}: a broad except outside a seam"


def _public(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public classes and functions, methods too; not what stands in a Protocol or a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_"):
                continue
            yield child
            if isinstance(child, ast.ClassDef) and not _is_protocol(child):
                yield from _public(child)


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).startswith("Protocol") for base in node.bases)


def _needs_docstring(node: ast.AST, top: bool) -> bool:
    """Methods of two lines under a name that says it all go without."""
    if top or isinstance(node, ast.ClassDef):
        return True
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return len(node.body) > 3


def test_everything_public_says_what_it_is() -> None:
    missing = []
    for path in MODULES:
        module = tree(path)
        if not ast.get_docstring(module):
            missing.append(where(path, module))
        top = set(module.body)
        for node in _public(module):
            if _needs_docstring(node, node in top) and not ast.get_docstring(node):
                missing.append(f"{where(path, node)} {node.name}")
    assert not missing, "no docstring: " + ", ".join(missing)


@pytest.mark.parametrize("door", DOORS)
def test_doors(door: str) -> None:
    for path in MODULES:
        if door in imported(tree(path)):
            assert allows(door, path), f"{path.name} imports {door}: see law 1"


def test_stores_only_ask_how_much_time_went_by() -> None:
    for path in MODULES:
        if allows("time", path) and not (DRIVERS | COMMANDS) & inside(path):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time":
                    assert node.attr in STORE_CLOCK, f"{where(path, node)}: time.{node.attr}"


def test_no_star_imports_and_no_utils() -> None:
    for path in MODULES + TESTS:
        assert path.stem not in {"utils", "helpers", "common", "misc"}, f"{path}: name what it is"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), where(path, node)


def test_tests_wait_with_until() -> None:
    for path in TESTS:
        if path.name == "conftest.py":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"time.sleep", "sleep"}, where(path, node)


def test_tests_judge_no_speed() -> None:
    """A busy machine is slow, and no bug: what hangs meets a deadline; the bench measures."""
    for path in TESTS:
        for node in ast.walk(tree(path)):
            for one in ast.walk(node) if isinstance(node, ast.Assert) else ():
                if isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.Lt | ast.LtE):
                    took = isinstance(one.left, ast.BinOp) and isinstance(one.left.op, ast.Sub)
                    assert not (took and "time.monotonic()" in ast.unparse(one.left)), where(
                        path, node
                    )


def test_nothing_is_left_for_later() -> None:
    mark = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]))
    files = [*MODULES, *TESTS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not mark.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


@pytest.mark.parametrize("name", describe.DOCUMENTS)
def test_generated_documents_are_fresh(name: str) -> None:
    fresh = describe.DOCUMENTS[name]()
    assert (ROOT / "docs" / name).read_text() == fresh, f"docs/{name} is stale: say 'make docs'"


def _commands() -> Iterator[str]:
    """Lines of the indented and fenced code in README and CONTRIBUTING that start a command."""
    for name in ("README.md", "CONTRIBUTING.md"):
        for line in (ROOT / name).read_text().splitlines():
            words = line.strip().lstrip("$ ")
            if re.match(r"(make|bin/\S+)( |$)", words):
                yield words


def test_the_readme_names_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"run", "test", "check", "format", "soak", "bench", "clean"} <= targets
    found = list(_commands())
    assert found[:2] == [
        line for line in found[:2] if re.match("make (run|test)", line)
    ], "the README opens with make run and make test"
    for line in found:
        command, *rest = line.split()
        if command == "make":
            assert rest and rest[0].partition("=")[0] in targets | {"SEED"}, line
        else:
            assert (ROOT / command).is_file(), line


def test_the_bench_exists() -> None:
    assert (ROOT / "bench" / "__main__.py").is_file()
