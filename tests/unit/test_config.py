from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import ConfigError, differences, dump, load, recipes
from configs.schema import RunConfig

SMALL = """\
name: small
questions:
  - {kind: word_problems, count: 4}
engines:
  one: {kind: scripted}
teachers:
  - {name: ann, engine: one}
prover: {engine: one}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistake(source: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_loads_says_what_it_is_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    config = load(name)
    assert recipes()[name]
    assert load(written(tmp_path, dump(config))) == config


def test_an_override_reaches_into_lists_and_absent_parts(tmp_path: Path) -> None:
    config = load(written(tmp_path, SMALL), ["teachers.0.temperature=0.9", "search.beam=8", "run_dir=/x"])
    assert (config.teachers[0].temperature, config.search.beam, config.run_dir) == (0.9, 8, Path("/x"))


@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        (("count: 4", "count: 4, sead: 1"), 3, "questions[0].sead: unknown key; did you mean 'seed'? accepted: count, kind,"),
        (("count: 4", "count: many"), 3, "questions[0].count: input should be a valid integer"),
        (("count: 4", "count: 0"), 3, "greater than or equal to 1, not 0"),
        (("engine: one}\nprover", "engine: two}\nprover"), 7, "teachers[0].engine: no engine is called 'two'; engines: one"),
        (("scripted", "scripted, skil: 1"), 5, "engines.one.skil: unknown key; did you mean 'skill'?"),
        (("kind: scripted", "kind: vllmm"), 5, "'transformers', 'scripted'"),
        (("name: small\n", ""), None, "name: missing"),
        (("name: small", "name: [a"), 2, "not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, change: tuple[str, str], line: int | None, expected: str) -> None:
    source = written(tmp_path, SMALL.replace(*change))
    told = mistake(source)
    assert "\n" not in told
    assert told.startswith(f"{source}:{line}: " if line else f"{source}: ")
    assert expected in told


@pytest.mark.parametrize(
    ("source", "override", "expected"),
    [
        ("nowhere.yaml", None, "nowhere.yaml: no such file"),
        ("quickstat", None, "neither a file nor a recipe; recipes: "),
        ("quickstart", "search.beam", "must be KEY=VALUE"),
        ("quickstart", "search.beem=1", "--set search.beem=1: search.beem: unknown key; did you mean 'beam'?"),
        ("quickstart", "teachers.9.engine=x", "9 is not an index into a list of 3"),
    ],
)
def test_a_wrong_name_or_override_is_one_line(source: str, override: str | None, expected: str) -> None:
    told = mistake(source, *([override] if override else []))
    assert expected in told
    assert "\n" not in told


def test_differences_name_keys_and_leave_out_harmless_ones() -> None:
    old = load("quickstart")
    new = load("quickstart", ["search.beam=8", "limits.questions=1", "logging.level=debug", "run_dir=/elsewhere"])
    assert differences(old, new) == ["search.beam: 4 -> 8"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("8000", "must be an address such as http://127.0.0.1:8000, or a list of such addresses, not 8000"),
        ("[http://a:1, b:1]", "each must be an address such as http://127.0.0.1:8000, not 'b:1'"),
        ("[http://a:1, http://a:1]", "the address http://a:1 is in the list twice"),
        ("[]", "the list of addresses is empty"),
    ],
)
def test_a_wrong_address_is_one_line(url: str, expected: str) -> None:
    told = mistake("servers", "engines.vllm.server=null", f"engines.vllm.url={url}")
    assert told == f"--set engines.vllm.url={url}: engines.vllm.url: {expected}"


def test_how_many_replicas_answer_is_harmless(tmp_path: Path) -> None:
    many = load("servers", ["engines.vllm.server.replicas=4"])
    assert differences(load("servers"), many) == []
    assert "less than or equal to 64" in mistake("servers", "engines.vllm.server.replicas=65")
    one, two = (["engines.vllm.server=null", f"engines.vllm.url={url}"] for url in ("http://a:1", "[http://a:1, http://b:2/v1]"))
    assert differences(load("servers", one), load("servers", two)) == []
    assert load(written(tmp_path, dump(load("servers", two)))) == load("servers", two)


STUDENTS = """\
students:
  - {name: amy, model: tiny}
  - {name: joe, model: tiny}
evaluation:
  questions: {kind: word_problems, count: 4, split: held_out}
  others:
    far: {kind: word_problems, count: 4, split: held_out}
"""


def test_students_may_be_several_and_held_out_questions_in_several_sets(tmp_path: Path) -> None:
    config = load(written(tmp_path, SMALL + STUDENTS))
    assert [student.name for student in config.students] == ["amy", "joe"]
    assert config.evaluation
    assert list(config.evaluation.others) == ["far"]
    assert load(written(tmp_path, dump(config))) == config
    assert differences(config, load(written(tmp_path, SMALL + STUDENTS), ["evaluation.teachers=true"])) == []


@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        (("name: joe", "name: amy"), 11, "students[1].name: 'amy' is somebody else's name; names must differ"),
        (("name: joe", "name: ann"), 11, "students[1].name: 'ann' is somebody else's name"),
        (("name: joe", "name: prover"), 11, "students[1].name: 'prover' is somebody else's name"),
        (("name: amy", "name: strict"), 10, "students[0].name: 'strict' is somebody else's name"),
        (("name: joe", "name: joe@after"), 11, "students[1].name: string should match pattern"),
        (("far:", "held_out:"), 15, "evaluation.others.held_out: so the set of evaluation.questions is called; choose another"),
        (("far:", "a b:"), 15, "string should match pattern"),
        (
            ("far: {", "far: {splt: train, "),
            15,
            "evaluation.others.far.splt: unknown key; did you mean 'split'? accepted: count,",
        ),
        (("far: {kind: word_problems", "far: {kind: words"), 15, "evaluation.others.far"),
    ],
)
def test_a_mistake_about_students_and_sets_is_one_line(tmp_path: Path, change: tuple[str, str], line: int, expected: str) -> None:
    judged = "judges: [{name: strict, engine: one}]\n"
    source = written(tmp_path, SMALL + STUDENTS.replace(*change) + judged)
    told = mistake(source)
    assert "\n" not in told
    assert told.startswith(f"{source}:{line}: ")
    assert expected in told


@pytest.mark.parametrize(
    ("student", "line", "expected"),
    [
        ("processes: 2}\npeers: {}", 11, "students[1].processes: 2; with peers, students have one process each"),
        ("processes: 2}\nplacement: together", 11, "students[1].processes: 2; placement together takes one each"),
        ("processes: 2, device: 'cuda:1'}", 11, 'device: \'cuda:1\' for 2 processes; accepted: "cuda", "cpu" or "auto"'),
        ("shard: true}", 11, "shard: one process has nobody to share with; accepted: processes above 1"),
        ("processes: 2, shard: true, tuning: qlora}", 11, "shard: weights of 4 bits cannot be split; accepted: tuning"),
    ],
)
def test_processes_that_cannot_share_a_student_are_one_line(tmp_path: Path, student: str, line: int, expected: str) -> None:
    source = written(tmp_path, SMALL + STUDENTS.replace("name: joe, model: tiny}", f"name: joe, model: tiny, {student}"))
    told = mistake(source)
    assert "\n" not in told
    assert expected in told
    assert told.startswith(f"{source}:{line}: ")


def test_every_key_has_a_docstring() -> None:
    def described(schema: dict) -> bool:
        return all("description" in prop for prop in schema.get("properties", {}).values())

    schema = RunConfig.model_json_schema()
    assert all(described(part) for part in [schema, *schema["$defs"].values()])


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError):
        load(str(path))
