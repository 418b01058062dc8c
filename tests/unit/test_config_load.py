"""Manifests: what is accepted, what the run id depends on, and how problems are told."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tomlkit

from p2ptrain.config.load import load_run, parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.config.ranges import RULES
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import ConfigError

MINIMAL = """
name = "least"
seed = 7
rounds = 3
[model]
layers = 1
width = 8
heads = 2
kv_heads = 1
mlp_hidden = 16
[slicing]
slices = 2
[inner]
steps = 2
batch = 1
lr = 1e-3
[outer]
lr = 1
momentum = 0.7
"""


def with_value(path: str, value: Any, text: str = MINIMAL) -> str:
    document = tomlkit.parse(text)
    *sections, key = path.split(".")
    table: Any = document
    for section in sections:
        table = table.setdefault(section, tomlkit.table())
    table[key] = value
    return tomlkit.dumps(document)


def without(path: str) -> str:
    document = tomlkit.parse(MINIMAL)
    *sections, key = path.split(".")
    table: Any = document
    for section in sections:
        table = table[section]
    del table[key]
    return tomlkit.dumps(document)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_run(text, source="m.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("m.toml: ") for line in lines)
    return [line.removeprefix("m.toml: ") for line in lines]


def leaves(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of every value that a manifest can have."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= leaves(hint, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = hint
    return found


def test_manifest_with_required_keys_only_takes_the_schema_s_defaults():
    run = parse_run(MINIMAL, "m.toml")
    assert run.exchange.part_elements == 1 << 20
    assert run.slicing.parts == ("mlp",)
    assert (run.seed, run.model.width, run.outer.momentum) == (7, 8, 0.7)


def test_whole_number_is_accepted_for_a_float_and_becomes_one():
    lr = parse_run(MINIMAL, "m.toml").outer.lr
    assert type(lr) is float
    assert lr == 1.0


def test_all_problems_are_reported_at_once():
    text = with_value("model.width", "wide", with_value("inner.lr", -1, with_value("outer.zzz", True)))
    assert len(problems(text)) == 3


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("model.width", True, "model.width = true is not a whole number; choose a whole number of at least 1"),
        ("model.width", 1.0, "model.width = 1.0 is not a whole number"),
        ("model.width", 0, "model.width = 0 is out of range; choose a whole number of at least 1"),
        (
            "model.vocabulary",
            255,
            "model.vocabulary = 255 is less than there are bytes; choose 256, or a data.tokenizer",
        ),
        ("data.tokenizer", "t.json", 'data.tokenizer_hash = "" would let peers with another t.json into the run'),
        ("data.tokenizer_hash", "ab" * 32, "means nothing where every byte is a token"),
        ("data.path", "\x1b[2Jtext", "choose printable characters only"),
        ("data.end_token", "</s>", 'data.end_token = "</s>" means nothing where every byte is a token'),
        ("inner.lr", False, "inner.lr = false is not a number"),
        ("inner.lr", 0, "inner.lr = 0 is out of range; choose a number above 0"),
        ("outer.lr", 1e39, "outer.lr = 1e+39 is out of range; choose a number above 0, at most 100"),
        ("outer.last_lr", 101, "outer.last_lr = 101 is out of range; choose 0 for the same as outer.lr, or up to 100"),
        ("inner.lr", float("nan"), "inner.lr = nan is not finite"),
        ("inner.lr", 10**400, "is not finite"),
        ("inner.beta2", 1.0, "inner.beta2 = 1.0 is out of range"),
        ("outer.momentum", 1, "outer.momentum = 1 is out of range"),
        ("outer.momentum", -0.1, "outer.momentum = -0.1 is out of range"),
        ("exchange.lease_s", 0.0, "exchange.lease_s = 0.0 is out of range; choose seconds above 0"),
        ("exchange.codec", "int2", 'exchange.codec = "int2" is not known; choose "int8" or "int4" or "float32"'),
        ("slicing.slices", 0, "slicing.slices = 0 is out of range"),
        ("slicing.parts", "mlp", 'slicing.parts = "mlp" is not a list'),
        ("slicing.parts", ["mlp", "norms"], 'slicing.parts[1] = "norms" is not known; choose "mlp" or "heads"'),
        ("slicing.parts", ["mlp", "mlp"], "choose each part once"),
        ("model", 5, "model = 5 is not a table; choose a [model] section"),
        ("name", "", 'name = "" is not usable'),
        ("name", "\x1b[2J", "is not usable"),
        ("seed", 2**63, "is out of range"),
        ("data.fingerprint", "abc", 'data.fingerprint = "abc" is not usable; choose 64 hexadecimal digits'),
        ("data.pattern", "../*.py", "choose a pattern inside the folder"),
    ],
)
def test_wrong_value_is_named_with_what_to_choose(path, value, expected):
    (problem,) = problems(with_value(path, value))
    assert expected in problem


def test_misspelt_key_is_answered_with_the_nearest_one():
    assert problems(with_value("inner.warm_up_steps", 3)) == [
        "inner.warm_up_steps is not a known key; did you mean warmup_steps?"
    ]


def test_key_like_nothing_known_is_answered_with_all_that_are():
    assert problems(with_value("outer.zzz", 3)) == [
        "outer.zzz is not a known key; choose from lr, momentum, last_lr, cooldown, common_lr_ratio, nesterov"
    ]


def test_missing_key_is_named():
    assert problems(without("inner.lr")) == ["inner.lr is missing; add lr = ... with a number"]


def test_missing_section_is_named_with_what_it_needs():
    assert problems(without("outer")) == ["outer is missing; add a [outer] section with lr, momentum"]


@pytest.mark.parametrize("steps", [6, 7])
def test_warm_up_as_long_as_the_run_is_refused(steps):
    (problem,) = problems(with_value("inner.warmup_steps", steps))
    assert "not less than the run's 6 inner steps" in problem


def test_warm_up_just_shorter_than_the_run_is_accepted():
    assert parse_run(with_value("inner.warmup_steps", 5), "m.toml").inner.warmup_steps == 5


def test_each_fragment_has_a_turn_of_at_least_one_inner_step():
    (problem,) = problems(with_value("slicing.fragments", 3))
    assert "slicing.fragments = 3 is more than the 2 inner steps of a round" in problem
    assert problem.endswith("choose at most 2")
    assert parse_run(with_value("slicing.fragments", 2), "m.toml").slicing.fragments == 2


def test_slices_are_moved_at_least_as_far_as_they_contribute():
    (problem,) = problems(with_value("slicing.amplification", 0.9))
    assert "slicing.amplification = 0.9 is out of range; choose a number from 1 up" in problem
    assert problems(with_value("slicing.last_amplification", 0.5)) != []
    assert parse_run(with_value("slicing.last_amplification", 1), "m.toml").slicing.last_amplification == 1.0


def test_folder_without_path_and_path_without_folder_are_refused():
    assert problems(with_value("data.source", "folder"))[0].startswith('data.path = "" is no folder')
    assert "is not read when" in problems(with_value("data.path", "texts"))[0]


def test_unknown_format_is_the_only_problem_reported():
    (problem,) = problems(with_value("format", 2, with_value("model.experts", 8)))
    assert "format = 2 is unknown to this p2ptrain, which knows format 1" in problem


def test_text_that_is_not_toml_is_reported_with_its_position():
    (problem,) = problems("name = 'x'\nseed 3\n")
    assert "not valid TOML" in problem
    assert "line 2, column 6" in problem


def test_missing_file_directory_and_binary_file_each_have_their_sentence(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist; create it with: p2ptrain run new"):
        load_run(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        load_run(tmp_path)
    (tmp_path / "weights").write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match="is not UTF-8 text at byte 0"):
        load_run(tmp_path / "weights")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="no manifest"):
        load_run(tmp_path / "large")


def test_every_value_of_a_manifest_has_a_rule_or_a_closed_set_of_choices():
    free = {"format"}  # checked by itself, against FORMAT
    closed = {"data.source", "door.admission", "exchange.averaging", "exchange.codec", "overlap.merge"}
    yes_or_no = {"exchange.check_averages", "outer.nesterov"}
    assert set(leaves(RunConfig)) - set(RULES) == free | closed | yes_or_no
    assert set(RULES) <= set(leaves(RunConfig))


def test_comments_order_and_spelling_leave_the_run_id_alone():
    original = run_id(parse_run(MINIMAL, "m.toml"))
    sections = MINIMAL.replace("lr = 1e-3", "lr = 0.001  # slow").split("[")
    reordered = sections[0] + "".join(f"[{section}" for section in reversed(sections[1:]))
    assert run_id(parse_run(reordered, "m.toml")) == original
    assert run_id(parse_run(with_value("exchange.history", 8), "m.toml")) == original


def test_every_value_changes_the_run_id():
    run = parse_run(MINIMAL, "m.toml")

    def changed(node: Any, path: list[str]) -> Any:
        name, *deeper = path
        old = getattr(node, name)
        if deeper:
            return dataclasses.replace(node, **{name: changed(old, deeper)})
        return dataclasses.replace(
            node, **{name: old + old if old and isinstance(old, str | tuple) else (old or 0) + 1}
        )

    ids = {path: run_id(changed(run, path.split("."))) for path in leaves(RunConfig)}
    assert len({run_id(run), *ids.values()}) == 1 + len(ids)


def test_run_id_is_the_same_on_every_machine_and_version():
    # Red after a change of RunConfig's fields: peers of two versions would then be in different runs with one manifest,
    # so the change needs a new format.
    assert run_id(parse_run(MINIMAL, "m.toml")) == "9ffc0e9a5f475f7085655ce97f4d67d7b1c88c9fa0ae66cf0b94263f6aa88ba1"


@pytest.mark.parametrize("preset", ["tiny", "nano"])
def test_preset_survives_being_written_and_read_as_toml(preset):
    text = preset_text(preset)
    assert tomllib.loads(tomlkit.dumps(tomlkit.parse(text))) == tomllib.loads(text)
    assert parse_run(text, preset).name == preset
