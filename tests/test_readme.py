"""The commands and the code that the documentation shows exist and are meant as they are written."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import fireside
from fireside.cli.app import app
from fireside.request import AudioChunk
from fireside.serve.config import ServeConfig
from fireside.tts import Fireside, Speech

REPO = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh.md")
GUIDES = ("docs/serving.md", "docs/serving.zh.md")
DOCUMENTS = (
    *READMES,
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/cosyvoice.md",
    *GUIDES,
    "recipes/hearth/README.md",
    "src/fireside/hearth/MODEL_CARD.md",
)
PLAYERS = ("ffplay",)


def blocks(document: str, language: str) -> list[str]:
    text = (REPO / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(document: str, name: str) -> Iterator[list[str]]:
    """Arguments of every `name ...` in the shell blocks of a document."""
    for block in blocks(document, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\|)\s", line):
                words = shlex.split(part.strip(), comments=True)
                if words[: len(name.split())] == name.split():
                    yield words[len(name.split()) :]


def check_command(words: list[str]) -> None:
    """Walk the command table; every option exists and has its value, arguments have a place."""
    command = typer.main.get_command(app)
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    options = {name: p for p in command.params if p.param_type_name == "option" for name in p.opts}
    places = sum(p.param_type_name == "argument" for p in command.params)
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            assert word in options, f"{command.name} has no option {word}"
            if not options[word].is_flag:
                assert words, f"{word} needs a value"
                words.pop(0)
        else:
            places -= 1
    assert places >= 0, f"{command.name} takes fewer arguments"


@pytest.mark.parametrize("document", READMES)
def test_commands_of_the_readme_exist(document: str) -> None:
    found = list(commands(document, "fireside"))
    assert {"say", "clone", "convert", "voices"} <= {words[0] for words in found}
    for words in found:
        check_command(words)


@pytest.mark.parametrize("document", GUIDES)
def test_commands_and_code_of_the_guides_exist(document: str) -> None:
    found = list(commands(document, "fireside"))
    assert {"serve", "bench"} == {words[0] for words in found}
    for words in found:
        check_command(words)
    for example in blocks(document, "python"):
        ast.parse(example)
    for settings in blocks(document, "yaml"):
        assert ServeConfig.model_validate(yaml.safe_load(settings)).port == 8000


def test_both_guides_have_the_same_parts() -> None:
    english, chinese = ((REPO / document).read_text(encoding="utf-8") for document in GUIDES)
    for part in (r"^## ", r"^\|", r"^```\w*$", r"^(?:curl|fireside|pip) "):
        assert len(re.findall(part, english, re.M)) == len(re.findall(part, chinese, re.M)), part
    options = re.findall(r"(?<![\w-])--[a-z][\w-]+", english)
    assert sorted(options) == sorted(re.findall(r"(?<![\w-])--[a-z][\w-]+", chinese))


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no option --pitch"):
        check_command(["say", "Hello.", "--pitch", "2"])
    with pytest.raises(AssertionError, match="no command sing"):
        check_command(["sing"])


def test_both_readmes_show_the_same_commands_and_figures() -> None:
    def shape(document: str) -> list[tuple[str, ...]]:
        return [
            tuple(w for w in words if w.startswith("--") or w == words[0]) for words in commands(document, "fireside")
        ]

    english, chinese = (dict.fromkeys(w[0] for w in shape(document)) for document in READMES)
    assert english == chinese
    rows = [len(re.findall(r"^\|", (REPO / document).read_text(encoding="utf-8"), re.M)) for document in READMES]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("document", READMES)
def test_python_of_the_readme_calls_what_there_is(document: str) -> None:
    examples = blocks(document, "python")
    assert len(examples) == 3
    kinds = {"tts": Fireside, "speech": Speech, "chunk": AudioChunk}
    calls = 0
    for example in examples:
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(fireside, name.name) for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                kind = kinds.get(node.value.id)
                if kind is not None:
                    names = {*dir(kind), *getattr(kind, "__dataclass_fields__", ())}
                    assert node.attr in names, f"{kind.__name__} has no {node.attr}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in kinds:
                    function = getattr(kinds[owner.id], node.func.attr)
                    keywords = {keyword.arg: None for keyword in node.keywords}
                    inspect.signature(function).bind(None, *node.args, **keywords)
                    calls += 1
    assert calls >= 7


def test_first_python_example_runs(
    tiny_model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fireside.hub.bundled_folder", lambda: tiny_model)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("README.md", "python")[0], "README.md", "exec"), {})
    assert (tmp_path / "hello.wav").stat().st_size > 1000


def modules() -> list[tuple[str, str, list[str]]]:
    """Every `python -m fireside...` of the documents and of run.sh: where, module, options."""
    found = [
        (document, words[0], [word for word in words if word.startswith("--")])
        for document in DOCUMENTS
        for words in commands(document, "python -m")
    ]
    script = (REPO / "recipes" / "hearth" / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    for module, rest in re.findall(r"^stage \S+ (\S+)(.*)$", script, re.M):
        found.append(("run.sh", module, re.findall(r"(?<=\s)--[\w-]+", rest)))
    return found


@pytest.mark.parametrize(("where", "module", "options"), modules())
def test_stages_of_the_recipe_exist(where: str, module: str, options: list[str]) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert '__name__ == "__main__"' in source
    for option in options:
        assert f'"{option}"' in source, f"{module} has no option {option}"


def test_the_recipe_has_every_stage() -> None:
    stages = {module.rsplit(".", 1)[1] for where, module, _ in modules() if where == "run.sh"}
    trained = {"data", "phones", "speaker", "tokenizer", "vocoder", "flow", "adaptation", "lm"}
    assert stages == {*trained, "package", "speech"}
    described = {module.rsplit(".", 1)[1] for where, module, _ in modules() if where != "run.sh"}
    assert stages <= described


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (REPO / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((REPO / document).parent / target).exists(), f"{document}: {target}"


def test_ci_runs_what_the_readme_says() -> None:
    script = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install '.[dev]' && pytest" in script
    assert any("pip install '.[dev]' && pytest" in block for block in blocks("README.md", "sh"))


def test_players_are_all_that_is_not_ours() -> None:
    ours = ("fireside", "pip", "pytest")
    for document in READMES:
        for block in blocks(document, "sh"):
            for part in re.split(r"\s(?:&&|\|)\s|\n", block.strip()):
                assert part.split()[0] in (*ours, *PLAYERS)
