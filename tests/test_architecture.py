"""What holds across all modules: layers, cheap imports, exports, and what code may not do."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From top to bottom. An import leads to a lower row or stays inside its own unit; units of one row
# are side by side and do not know each other. A unit is a module or a package with all inside it.
LAYERS = (
    ("baselines", "eto_agents.__main__"),
    ("eto_agents.cli",),
    ("eto_agents.bridges",),
    ("eto_agents",),  # the package's own __init__, which re-exports
    ("eto_agents.reproduce",),
    ("eto_agents.collect", "eto_agents.hub", "eto_agents.report", "eto_agents.pretrain"),
    ("eto_agents.training", "eto_agents.evaluation"),
    ("eto_agents.best_of_n", "eto_agents.episodes"),
    ("eto_agents.distributed",),
    ("eto_agents.rollout",),
    ("eto_agents.models.tiny", "eto_agents.models.served"),  # need a checkpoint
    ("eto_agents.models.checkpoint",),  # a checkpoint makes its agent
    ("eto_agents.policies",),
    ("eto_agents.chat_episode",),
    ("eto_agents.models",),
    ("eto_agents.formats", "eto_agents.collection"),
    ("eto_agents.react",),
    ("eto_agents.worlds",),
    ("eto_agents.react.parse",),
    ("eto_agents.live_episode",),
    ("eto_agents.policy", "eto_agents.episode_log"),
    ("eto_agents.store", "eto_agents.runs"),
    ("eto_agents.preference", "eto_agents.arguments", "eto_agents.tracking"),
    ("eto_agents.console",),
    (
        "eto_agents.markdown",
        "eto_agents.trajectory",
        "eto_agents.settings",
        "eto_agents.threads",
        "eto_agents.processes",
    ),
    ("eto_agents.plain_text", "eto_agents.strict_json"),
    ("eto_envs",),
    ("eto_envs.webshop", "eto_envs.alfworld", "eto_envs.scienceworld"),
    (
        "eto_envs.wrappers",
        "eto_envs.vector",
        "eto_envs.testing",
        "eto_envs.audit",
        "eto_envs.registration",
    ),
    ("eto_envs.core", "eto_envs.data"),
    ("eto_envs.shaping", "eto_envs.fetch"),
    ("eto_envs.tasks", "eto_envs.spaces", "eto_envs.comparison"),
    ("eto_envs.files",),
    ("eto_envs.errors",),
)
RANKS = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}

HEAVY = {
    "ijson",
    "jinja2",
    "matplotlib",
    "nltk",
    "openai",
    "py4j",
    "ray",
    "rich",
    "scipy",
    "selenium",
    "starlette",
    "uvicorn",
    "spacy",
    "textworld",
    "tokenizers",
    "torch",
    "transformers",
    "tyro",
}
MAX_EXPORTS = 20
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
MAY_PICKLE = {("eto_envs.testing", "pickle")}  # checks that snapshots travel, on bytes of its own
OWN_GENERATORS = {
    "random.Random",
    "random.SystemRandom",
    "numpy.random.BitGenerator",
    "numpy.random.Generator",
    "numpy.random.PCG64",
    "numpy.random.Philox",
    "numpy.random.RandomState",  # the reference implementations draw from it
    "numpy.random.SeedSequence",
    "numpy.random.default_rng",
}


class Module(NamedTuple):
    """A source file, parsed."""

    name: str
    is_package: bool
    source: str
    tree: ast.Module


def parse(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name, is_package, source, ast.parse(source))


def read_modules() -> dict[str, Module]:
    modules = {}
    for unit in ("eto_envs", "eto_agents", "baselines"):
        for path in sorted((ROOT / unit).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules[name] = parse(name, path.read_text(encoding="utf-8"), is_package=is_package)
    return modules


MODULES = read_modules()


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, inside functions too."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            origin = importlib.util.resolve_name(origin, package)
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def unit_of(name: str) -> str | None:
    """The longest entry of `LAYERS` that holds a name."""
    while name and name not in RANKS:
        name = name.rpartition(".")[0]
    return name or None


def layer_breaches(module: Module) -> Iterator[str]:
    own = unit_of(module.name)
    if own is None or (own in ("eto_envs", "eto_agents") and module.name != own):
        yield f"{module.name} is in no row of LAYERS: give it one"
        return
    for line, name in imported(module):
        unit = unit_of(name)
        if unit and unit != own and RANKS[unit] <= RANKS[own]:
            yield f"{module.name}:{line} imports {name}, which is not below it"


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """For each module the modules it imports, wherever in it; imports for types alone left out."""
    graph = {}
    for name, module in modules.items():
        found = set()
        for _, target in imported(without_type_checking(module)):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            found.add(target)
        graph[name] = found - {name, ""}
    return graph


def without_type_checking(module: Module) -> Module:
    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> Any:
            return node.orelse if "TYPE_CHECKING" in ast.dump(node.test) else node

    tree = Strip().visit(ast.parse(module.source))
    return module._replace(tree=tree)


def circles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's algorithm)."""
    graph = import_graph(modules)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def baseline_uses_command_line(module: Module) -> Iterator[str]:
    if module.name.partition(".")[0] == "baselines":
        for line, name in imported(module):
            if f"{name}.".startswith("eto_agents.cli."):
                yield f"{module.name}:{line} imports {name}: the command line is no library"


ENGINE = "eto_agents.models.local"
DOORS = {ENGINE, f"{ENGINE}.LocalModel", f"{ENGINE}.UnsupportedModelError"}


def engine_is_entered_elsewhere(module: Module) -> Iterator[str]:
    if not f"{module.name}.".startswith(f"{ENGINE}."):
        for line, name in imported(module):
            if f"{name}.".startswith(f"{ENGINE}.") and name not in DOORS:
                yield f"{module.name}:{line} imports {name}, which is internal to {ENGINE}"


METHODS = {"sft", "rft", "dpo", "ppo", "grpo", "eto"}
BUILDS_ON = {("eto", "dpo"), ("rft", "sft")}


def method_imports_method(module: Module) -> Iterator[str]:
    package, _, own = module.name.rpartition(".")
    if package == "eto_agents.training" and own in METHODS:
        for line, name in imported(module):
            other = name.removeprefix("eto_agents.training.").partition(".")[0]
            is_method = name.startswith("eto_agents.training.") and other in METHODS - {own}
            if is_method and (own, other) not in BUILDS_ON:
                yield f"{module.name}:{line} imports the method {other}"


def full_names(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every name that is used, imported names spelt out."""
    known = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import numpy.random` binds `numpy`; with `as r`, `r` is all of it.
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                known[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(module.tree):
        name = dotted(node)
        first, _, rest = name.partition(".")
        if first in known:
            yield node.lineno, f"{known[first]}.{rest}".rstrip(".")  # type: ignore[attr-defined]


def dotted(node: ast.AST) -> str:
    """``"a.b.c"`` of an attribute chain, ``""`` of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def global_randomness(module: Module) -> Iterator[str]:
    for line, name in full_names(module):
        package = next((p for p in ("random.", "numpy.random.") if name.startswith(p)), None)
        if package and not any(f"{name}.".startswith(f"{own}.") for own in OWN_GENERATORS):
            yield f"{module.name}:{line} uses {name}, whose state everyone shares"


def calls_of(module: Module, functions: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        name = dotted(node.func) if isinstance(node, ast.Call) else ""
        if name in functions:
            yield node.lineno, name  # type: ignore[attr-defined]


def prints(module: Module) -> Iterator[str]:
    if unit_of(module.name) not in ("eto_agents.cli", "baselines"):
        for line, name in calls_of(module, {"print"}):
            yield f"{module.name}:{line} calls {name}"


MAY_OPEN_TERMINAL = {"eto_agents.console", "eto_envs.data"}  # the latter for its progress bar


def terminal_elsewhere(module: Module) -> Iterator[str]:
    if module.name not in MAY_OPEN_TERMINAL:
        for line, name in full_names(module):
            if name in ("rich.console.Console", "rich.print"):
                yield f"{module.name}:{line} uses {name}, which would read names as markup"


MAY_DUMP = {
    "eto_agents.strict_json",
    # What these make is hashed, compared, quoted or embedded; it is no file of JSON.
    "eto_agents.evaluation.runs",
    "eto_agents.formats.folder",
    "eto_agents.formats.preference",
    "eto_agents.models.recordings",
    "eto_agents.models.scripted",
    "eto_agents.react.prompts",
    "eto_agents.report.replay",
    "eto_agents.runs",
    "eto_agents.training.preference_rows",
}


def json_elsewhere(module: Module) -> Iterator[str]:
    if module.name.startswith("eto_agents.") and module.name not in MAY_DUMP:
        for line, name in full_names(module):
            if name in ("json.dump", "json.dumps"):
                yield f"{module.name}:{line} uses {name}: write with eto_agents.strict_json"


def code_from_data(module: Module) -> Iterator[str]:
    for line, name in calls_of(module, {"eval", "exec"}):
        yield f"{module.name}:{line} calls {name}"
    for line, name in imported(module):
        if name.partition(".")[0] in PICKLES and (module.name, name) not in MAY_PICKLE:
            yield f"{module.name}:{line} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            allowed = ast.unparse(node.value)
            if allowed != "False":
                yield f"{module.name}:{node.value.lineno} has allow_pickle={allowed}"


RULES = (
    layer_breaches,
    baseline_uses_command_line,
    engine_is_entered_elsewhere,
    method_imports_method,
    global_randomness,
    prints,
    terminal_elsewhere,
    json_elsewhere,
    code_from_data,
)


def test_no_modules_import_each_other() -> None:
    assert circles(MODULES) == []


def test_circles_are_found_wherever_they_hide() -> None:
    def modules(**sources: str) -> dict[str, Module]:
        return {name: parse(name, source) for name, source in sources.items()}

    assert circles(modules(a="import b", b="import a")) == [["a", "b"]]
    hidden = modules(a="import b", b="import c", c="def f():\n    from a import x")
    assert circles(hidden) == [["a", "b", "c"]]
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a"
    assert circles(modules(a="import b", b=types)) == []
    assert circles(modules(a="import b\nimport c", b="import c", c="")) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_a_rule(rule: Callable[[Module], Iterator[str]]) -> None:
    assert [breach for module in MODULES.values() for breach in rule(module)] == []


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (layer_breaches, "eto_envs.core", "import eto_agents.policy"),
        (layer_breaches, "eto_envs.core", "from eto_envs import data"),
        (layer_breaches, "eto_envs.tasks", "def f():\n    from eto_envs.core import TextEnv"),
        (layer_breaches, "eto_envs.webshop.env", "from eto_envs.alfworld.engine import game"),
        (layer_breaches, "eto_envs.vector", "from .wrappers import ShapeReward"),
        (layer_breaches, "eto_agents.training.sft", "import eto_agents.evaluation.harness"),
        (layer_breaches, "eto_agents.evaluation.runs", "import eto_agents.report.document"),
        (layer_breaches, "eto_envs.brand_new", ""),
        (baseline_uses_command_line, "baselines.eto", "from eto_agents.cli import train"),
        (baseline_uses_command_line, "baselines.eto", "def f():\n    import eto_agents.cli.train"),
        (engine_is_entered_elsewhere, "baselines.eto", "import eto_agents.models.local.sampler"),
        (
            engine_is_entered_elsewhere,
            "eto_agents.training.ppo",
            "def f():\n    from eto_agents.models.local.model import LocalModel",
        ),
        (method_imports_method, "eto_agents.training.ppo", "from eto_agents.training import dpo"),
        (method_imports_method, "eto_agents.training.sft", "import eto_agents.training.eto"),
        (global_randomness, "eto_envs.core", "import random\nrandom.seed(1)"),
        (global_randomness, "eto_envs.core", "import random as r\nx = r.choice"),
        (global_randomness, "eto_envs.core", "from random import shuffle\nshuffle([])"),
        (global_randomness, "eto_envs.core", "import numpy as np\nnp.random.rand(3)"),
        (global_randomness, "eto_envs.core", "from numpy import random\nrandom.seed(0)"),
        (global_randomness, "eto_envs.core", "import numpy.random\nnumpy.random.seed(0)"),
        (prints, "eto_agents.rollout", "print(1)"),
        (terminal_elsewhere, "eto_agents.cli.play", "from rich.console import Console\nConsole()"),
        (json_elsewhere, "eto_agents.evaluation.results", "import json\njson.dumps(1)"),
        (code_from_data, "eto_envs.core", "eval('1')"),
        (code_from_data, "baselines.eto", "exec('1')"),
        (code_from_data, "eto_envs.core", "from pickle import loads"),
        (code_from_data, "eto_envs.core", "load('x', allow_pickle=True)"),
    ],
)
def test_rules_find_what_breaks_them(
    rule: Callable[[Module], Iterator[str]], name: str, source: str
) -> None:
    assert len(list(rule(parse(name, source)))) >= 1


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (layer_breaches, "eto_envs.webshop.env", "from eto_envs.webshop.engine import engine"),
        (layer_breaches, "eto_envs.webshop.env", "from eto_envs.errors import DataError"),
        (layer_breaches, "eto_agents.cli.data", "from eto_envs import data"),
        (baseline_uses_command_line, "baselines.eto", "import eto_agents.training.eto"),
        (baseline_uses_command_line, "eto_agents.cli.train", "from eto_agents.cli import data"),
        (
            engine_is_entered_elsewhere,
            "eto_agents.models.checkpoint",
            "from eto_agents.models.local import LocalModel",
        ),
        (
            engine_is_entered_elsewhere,
            f"{ENGINE}.model",
            f"from {ENGINE}.sampler import Vocabulary",
        ),
        (method_imports_method, "eto_agents.training.eto", "import eto_agents.training.dpo"),
        (method_imports_method, "eto_agents.training.rft", "import eto_agents.training.sft"),
        (global_randomness, "eto_envs.core", "import random\nrandom.Random(1).choice([1])"),
        (global_randomness, "eto_envs.core", "import numpy as np\nnp.random.default_rng(0)"),
        (global_randomness, "eto_envs.core", "def f(random):\n    random.seed(1)"),
        (prints, "eto_agents.cli.play", "print(1)"),
        (terminal_elsewhere, "eto_agents.cli.play", "from eto_agents.console import show\nshow()"),
        (json_elsewhere, "eto_agents.evaluation.results", "import json\njson.loads('1')"),
        (code_from_data, "eto_agents.models.local.model", "model.eval()"),
        (code_from_data, "eto_envs.core", "load('x', allow_pickle=False)"),
    ],
)
def test_rules_leave_alone_what_is_right(
    rule: Callable[[Module], Iterator[str]], name: str, source: str
) -> None:
    assert list(rule(parse(name, source))) == []


PROBE = """
import json, sys
import gymnasium
brought_by_gymnasium = set(sys.modules)
events = []
def listen(event, args):
    if event.startswith("socket.") or event == "subprocess.Popen":
        events.append(event)
sys.addaudithook(listen)
import eto_envs, eto_agents
modules = sorted(set(sys.modules) - brought_by_gymnasium)
json.dump({"modules": modules, "events": events}, sys.stdout)
"""


def test_imports_are_cheap() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    probe = json.loads(done.stdout)
    assert "eto_envs.core" in probe["modules"]  # the probe sees what it should
    assert [name for name in probe["modules"] if name.partition(".")[0] in HEAVY] == []
    assert probe["events"] == []


@pytest.mark.parametrize("package", ["eto_envs", "eto_agents"])
def test_exports_are_right(package: str) -> None:
    module = importlib.import_module(package)
    exports: list[str] = module.__all__
    assert len(exports) <= MAX_EXPORTS
    assert len(set(exports)) == len(exports)
    assert [name for name in exports if name.startswith("_") or not hasattr(module, name)] == []
    own = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("eto_")
    }
    assert own <= set(exports)
