"""README and docs say what is there: commands parse, files and symbols exist, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from p2ptrain import __version__
from p2ptrain.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "p2ptrain"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
USAGE_ERROR = typer.BadParameter.__base__ or typer.BadParameter
LONGEST_LINE = 110
FOLDERS = {path.name for parent in (ROOT, PACKAGE) for path in parent.iterdir() if path.is_dir()}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def typed_lines(text: str) -> list[str]:
    """Lines that readers are told to type: they stand alone, indented or in a fence; continued ones are joined."""
    text = text.replace("\\\n", " ")
    fences = "\n".join(FENCE.findall(text)).splitlines()
    indented = [line for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]
    return [line.strip() for line in (*fences, *indented) if re.match(r"\s*(p2ptrain|make) ", line)]


def spans(text: str) -> list[str]:
    """What stands in backticks within sentences, across line breaks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def all_options(command=None) -> Iterator[str]:
    command = command or get_command(app)
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for inner in getattr(command, "commands", {}).values():
        yield from all_options(inner)


def command_problem(line: str, *, complete: bool) -> str | None:
    """What is wrong with a ``p2ptrain`` command; ``complete``: required options must be there, values must convert."""
    _, *arguments = shlex.split(line, comments=True)
    command = get_command(app)
    while getattr(command, "commands", None):
        if not arguments:
            return "names no command" if complete else None
        name = arguments.pop(0)
        given = [p for p in command.params if name in (*p.opts, *p.secondary_opts)]
        if given:
            del arguments[: 0 if given[0].is_flag else 1]
            if not arguments and command.invoke_without_command:
                return None
            continue
        if name not in command.commands:
            return f"has no command {name}"
        command = command.commands[name]
    if complete:
        try:
            command.make_context(command.name, list(arguments))
        except USAGE_ERROR as error:
            return str(error.format_message())
        return None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [argument for argument in arguments if argument.startswith("-") and argument not in known]
    return f"has no option {', '.join(unknown)}" if unknown else None


def make_problem(line: str) -> str | None:
    """What is wrong with a ``make`` command: its target, or the options that it hands on to the demo."""
    words = shlex.split(line, comments=True)[1:]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    targets = [word for word in words if "=" not in word]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            return f"has no target {target}"
    for variable in variables:
        if f"$({variable})" not in makefile:
            return f"has no variable {variable}"
    if "demo" in targets:
        return command_problem(f"p2ptrain demo {variables.get('ARGS', '')}", complete=True)
    return None


def problem(line: str, *, complete: bool) -> str | None:
    return make_problem(line) if line.startswith("make ") else command_problem(line, complete=complete)


def missing_path(span: str) -> bool:
    """Whether a span names a file or folder of this repository that is not there."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span) or re.match(r"p2ptrain/\d/", span):
        return False  # not a path, or the name of a stream
    is_ours = ("/" in span and span.split("/")[0] in FOLDERS) or Path(span).suffix == ".py"
    return is_ours and not any((base / span).exists() for base in (ROOT, PACKAGE))


def defines(module: str, symbol: str) -> bool:
    """Whether a module of the package defines a class, function, field or constant of this name."""
    source = (PACKAGE / module).read_text()
    return re.search(rf"^\s*((async )?def|class) {symbol}\b|^\s*{symbol}\b\s*[:=]", source, re.MULTILINE) is not None


def anchors(text: str) -> set[str]:
    """The fragments that headings can be reached by, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if target.startswith("https://"):
            continue
        name, _, fragment = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.exists() or (fragment and fragment not in anchors(linked.read_text())):
            broken.append(target)
    return broken


@pages
def test_every_command_that_readers_type_parses(page: Path) -> None:
    problems = {line: problem(line, complete=True) for line in typed_lines(page.read_text())}
    assert not {line: found for line, found in problems.items() if found}


@pages
def test_every_command_and_option_in_a_sentence_exists(page: Path) -> None:
    found = spans(page.read_text())
    commands = [span for span in found if re.match(r"(p2ptrain|make) [\w-]", span)]
    problems = {line: problem(line, complete=False) for line in commands}
    assert not {line: one for line, one in problems.items() if one}
    options = {span.split()[0] for span in found if re.match(r"--[a-z]", span)}
    assert options <= set(all_options())


def test_readme_shows_the_whole_way_by_hand() -> None:
    typed = " ".join(typed_lines((ROOT / "README.md").read_text()))
    commands = ["run new", "bootstrap", "peer", "swarm", "generate", "export"]
    assert [name for name in commands if f"p2ptrain {name}" not in typed] == []
    assert "make demo" in typed
    assert "make test" in typed


@pages
def test_every_path_in_backticks_exists(page: Path) -> None:
    assert [span for span in spans(page.read_text()) if missing_path(span)] == []


@pages
def test_every_symbol_is_in_the_file_that_is_named_with_it(page: Path) -> None:
    text = " ".join(FENCE.sub("", page.read_text()).split())
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    assert [(symbol, module) for symbol, module in named if not defines(module, symbol)] == []


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_every_claim_of_the_threat_model_names_a_test_that_would_fail_without_it() -> None:
    text = (ROOT / "docs/threat-model.md").read_text().partition("## What is not defended")[0]
    claims = [
        " ".join(item.split()) for item in re.findall(r"^- (.*?)(?=^- |^\S|^$|\Z)", text, re.MULTILINE | re.DOTALL)
    ]
    assert len(claims) >= 12
    assert [claim for claim in claims if not re.search(r"`tests/\w+/test_\w+\.py`", claim)] == []


def glossary() -> list[tuple[str, str]]:
    """Terms, and the cell that says where each lives."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    return [(term, place) for term, place in rows if term not in {"term", "---"}]


def glossary_problem(place: str) -> str | None:
    if place == "none yet":
        return None
    module, *symbols = re.findall(r"`([^`]+)`", place) or [""]
    if not (PACKAGE / module).is_file():
        return f"no module {module!r}"
    absent = [symbol for symbol in symbols if not defines(module, symbol)]
    return f"{module} does not define {', '.join(absent)}" if absent else None


def test_every_term_of_the_glossary_lives_where_it_says() -> None:
    terms = glossary()
    assert len(terms) > 40
    assert not {term: found for term, place in terms if (found := glossary_problem(place))}


def test_changelog_names_the_current_version() -> None:
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pages
def test_page_is_finished_and_its_lines_are_short(page: Path) -> None:
    text = page.read_text()
    assert "FIGURE" not in text
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("p2ptrain trian", "has no command trian"),
        ("p2ptrain run show", "manifest"),
        ("p2ptrain run new tiny", "--out"),
        ("p2ptrain peer --run t.toml --bootstrap A --home h --prot 1", "--prot"),
        ("p2ptrain bootstrap --port many", "--port"),
        ("make dmeo", "has no target dmeo"),
        ('make demo ARGS="--plane"', "--plane"),
        ("make demo ARG=--plain", "has no variable ARG"),
    ],
)
def test_wrong_command_is_found(line: str, says: str) -> None:
    assert typed_lines(f"text\n\n    {line}\n") == [line]
    assert says in str(problem(line, complete=True) or "")


def test_wrong_mentions_are_found(tmp_path: Path) -> None:
    assert problem("p2ptrain peer --prot", complete=False) == "has no option --prot"
    assert problem("p2ptrain peer --port", complete=False) is None
    assert missing_path("swarm/ruonds.py")
    assert missing_path("swram/rounds.py")
    assert missing_path("tests/slow")
    assert not missing_path("swarm/rounds.py")
    assert not missing_path("p2ptrain/1/blob")
    assert not missing_path("peer-a/log.txt")
    assert not defines("swarm/rounds.py", "elect_leader")
    assert glossary_problem("`swarm/rounds.py` `elect_leader`") == "swarm/rounds.py does not define elect_leader"
    assert glossary_problem("`swarm/leader.py`") == "no module 'swarm/leader.py'"
    page = tmp_path / "page.md"
    page.write_text("# What is there\n[a](gone.md) [b](#what-is-there) [c](#what-is-not) [d](page.md)\n")
    assert broken_links(page, page.read_text()) == ["gone.md", "#what-is-not"]
