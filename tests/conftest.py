"""Makes the library and the tools importable, and offers the reference pairs.

The pack's root must stay off sys.path: its folder `nodes/` has the name of the host's `nodes.py`.
"""

import importlib.util
import pathlib
import sys

import pytest

PACK_ROOT = pathlib.Path(__file__).resolve().parent.parent
# files that take a minute or more and stand near the end; begun first, both processes end at about the same time
BEGUN_FIRST = ("test_tailoring.py", "test_batch.py", "test_runs.py")
RENDERED_PAIR = PACK_ROOT / "example_pairs" / "house_a+roof_a"


def _import_package(name: str) -> None:
    folder = PACK_ROOT / name
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_import_package("magictailor")
_import_package("tools")
_import_package("benchmarks")
_import_package("toytown")


def pytest_addoption(parser):
    parser.addoption(
        "--pairs",
        type=pathlib.Path,
        default=PACK_ROOT.parent / "shared" / "pairs",
        help="folder with real reference pairs ({concept}_{id}+{component}_{id}/); tests use them when it exists",
    )


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in BEGUN_FIRST)


def pytest_generate_tests(metafunc):
    """A test that asks for `pair_folder` runs on the rendered pair, and on every real one that is there."""
    if "pair_folder" in metafunc.fixturenames:
        real = metafunc.config.getoption("--pairs")
        folders = [RENDERED_PAIR, *sorted(path for path in real.glob("*+*") if path.is_dir())]
        metafunc.parametrize("pair_folder", folders, ids=lambda path: path.name)


@pytest.fixture(scope="session")
def rendered_pair() -> pathlib.Path:
    """The pair rendered by tools/example_pair.py, with exact masks."""
    return RENDERED_PAIR
