"""Reads an official `cosyvoice*.yaml` without importing, looking up or running anything.

The files are HyperPyYAML: `!new:` makes an object of a class, `!name:` binds a function, `!apply:` calls one,
`!ref <key>` stands for the value of another key. Here the first two become records, the third is refused but for the
seeding of random generators (which Fireside does not do), and references are followed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fireside.errors import ConfigError

MAX_BYTES = 1 << 20
"""The official files have under 10 KB; nothing larger is read."""

SEEDING = {"random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all"}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_NAME = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True)
class Call:
    """A class or function that the file names, and the arguments it gives. Nothing is called."""

    tag: Literal["new", "name"]
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class _Reference:
    text: str
    line: int


class _Seeding:
    """Stands where a generator would be seeded."""


def read_official_yaml(file: Path, known: Collection[str]) -> dict[str, Any]:
    """The top-level keys of the file, every reference followed.

    known: names of the classes and functions that may occur. Raises ConfigError that names the file and the line for
    what is not YAML, an unknown class, a call, or references that go round in a circle.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file} is too large for a CosyVoice configuration: get it again.")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: get it again.") from error
    loader = _Reader(text, file, known)
    try:
        document = loader.get_single_data()
        if not isinstance(document, dict):
            raise ConfigError(f"{file} is not a CosyVoice configuration: it has no keys at its top.")
        return _References(document, file).followed()
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} cannot be read: {_one_line(error)}.") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deeply for a CosyVoice configuration: get it again.") from error
    finally:
        loader.dispose()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Reader(yaml.SafeLoader):
    """YAML's safe constructor, and the four tags above."""

    def __init__(self, text: str, file: Path, known: Collection[str]) -> None:
        super().__init__(text)
        self.file = file
        self.known = known

    def refuse(self, node: yaml.Node, what: str) -> ConfigError:
        """An error at a node."""
        return ConfigError(f"{self.file}, line {node.start_mark.line + 1}: {what}")

    def call(self, tag: Literal["new", "name"], target: str, node: yaml.Node) -> Call:
        """`!new:` or `!name:` with its arguments."""
        if target not in self.known:
            kind = "class" if tag == "new" else "function"
            raise self.refuse(
                node,
                f"'{target}' is not a {kind} of CosyVoice that Fireside knows, and nothing else is read: correct the "
                "file, or get it again from where the model came from.",
            )
        arguments: dict[Any, Any] = {}
        if isinstance(node, yaml.MappingNode):
            arguments = self.construct_mapping(node, deep=True)
        elif not (isinstance(node, yaml.ScalarNode) and node.value == ""):
            raise self.refuse(node, f"the arguments of '{target}' must be named ones.")
        return Call(tag, target, {str(key): value for key, value in arguments.items()}, node.start_mark.line + 1)

    def apply(self, target: str, node: yaml.Node) -> _Seeding:
        """`!apply:`, which is refused."""
        if target not in SEEDING:
            raise self.refuse(
                node,
                f"the file asks to run '{target}'. Fireside runs nothing that a configuration names: remove the line, "
                "and do not trust the files that came with it.",
            )
        return _Seeding()


def _new(loader: _Reader, target: str, node: yaml.Node) -> Call:
    return loader.call("new", target, node)


def _name(loader: _Reader, target: str, node: yaml.Node) -> Call:
    return loader.call("name", target, node)


def _apply(loader: _Reader, target: str, node: yaml.Node) -> _Seeding:
    return loader.apply(target, node)


def _reference(loader: _Reader, node: yaml.Node) -> _Reference:
    if not isinstance(node, yaml.ScalarNode):
        raise loader.refuse(node, "!ref needs a name in angle brackets.")
    return _Reference(node.value, node.start_mark.line + 1)


_Reader.add_multi_constructor("!new:", _new)
_Reader.add_multi_constructor("!name:", _name)
_Reader.add_multi_constructor("!apply:", _apply)
_Reader.add_constructor("!ref", _reference)
_Reader.add_constructor("!copy", _reference)
# YAML 1.1 takes 1e-06, which has no point, for a word.
_Reader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


class _References:
    """Follows the references of one document."""

    def __init__(self, document: dict[Any, Any], file: Path) -> None:
        self.document = {str(key): value for key, value in document.items()}
        self.file = file
        self.done: dict[str, Any] = {}
        self.way: list[str] = []

    def followed(self) -> dict[str, Any]:
        """Every key but those that seed a generator."""
        return {key: self.key(key) for key, value in self.document.items() if not isinstance(value, _Seeding)}

    def key(self, name: str, line: int = 0) -> Any:
        """The value of a key, or of one within others, as `a.b`."""
        if name in self.done:
            return self.done[name]
        if name in self.way:
            circle = " -> ".join([*self.way[self.way.index(name) :], name])
            raise ConfigError(f"{self.file}: the references go round in a circle: {circle}.")
        value: Any = self.document
        for part in [name] if name in self.document else name.split("."):
            inside = value.arguments if isinstance(value, Call) else value
            if not isinstance(inside, dict) or part not in inside:
                raise ConfigError(f"{self.file}, line {line}: !ref <{name}> names a key that is not in the file.")
            value = inside[part]
        self.way.append(name)
        self.done[name] = self.value(value)
        self.way.pop()
        return self.done[name]

    def value(self, value: Any) -> Any:
        """A value with its references followed."""
        if isinstance(value, _Reference):
            return self.reference(value)
        if isinstance(value, Call):
            return Call(value.tag, value.target, self.value(value.arguments), value.line)
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def reference(self, reference: _Reference) -> Any:
        """What a reference stands for: a value, the result of a sum, or a text with values put in."""
        text = reference.text.strip()
        whole = _NAME.fullmatch(text)
        if whole:
            return self.key(whole[1].strip(), reference.line)
        values = [self.key(name.strip(), reference.line) for name in _NAME.findall(text)]
        if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            result = _arithmetic(_NAME.sub(lambda match: repr(self.key(match[1].strip())), text))
            if result is not None:
                return result
        return _NAME.sub(lambda match: str(self.key(match[1].strip())), text)


def _arithmetic(text: str) -> int | float | None:
    """The value of a sum of numbers with + - * / // and brackets; None when the text is none."""
    try:
        return _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("not a sum")
