"""The inspector's page in a real browser: finished and living runs, by mouse and by keyboard, small and large, light and dark."""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from command import Kept, config, ended, fine, heard, living
from conftest import RUN, Opened, in_a_thread, inspecting, kept
from inspected import begin, make, node, question, rows, sampled, served
from playwright.sync_api import Locator, Page, expect

from store.types import Advance, Failure, Outcome, QuestionState, Verdict

VIEWS = ("run", "questions", "trajectories", "students", "failures", "controls")
TOKEN = "between-us"


def part(page: Page | Locator, name: str) -> Locator:
    return page.locator(f'[data-test="{name}"]')


def address(process: Any) -> str:
    return re.findall(r"http://\S+", heard(process, "watch at "))[0]


def a_solved_question(run: Kept) -> str:
    """One whose tree has several depths."""
    solved = [row["id"] for row in run.dump["question"] if row["state"] == "solved"]
    return next(id for id in solved if max(row["depth"] for row in run.dump["node"] if row["question"] == id) > 1)


def test_every_view_of_a_finished_run_is_there(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    counts = kept(folder / RUN).counts
    page = opened(url)
    expect(part(page, "state")).to_have_text("finished")
    expect(part(page, "balance")).to_contain_text("balance")
    expect(part(page, "questions-solved")).to_contain_text(str(counts["questions.solved"]))
    expect(part(page, "agents")).to_contain_text("bob")
    for view in VIEWS[1:]:
        page.get_by_role("navigation", name="Views").get_by_role("link", name=view.capitalize()).click()
        expect(page).to_have_url(re.compile(f"#/{view}$"))
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(part(page, "error")).to_have_count(0)


def test_a_list_is_read_page_by_page_to_its_end(finished: tuple[Path, str], opened: Opened) -> None:
    _, url = finished
    page = opened(f"{url}#/questions")
    expect(part(page, "question-row").first).to_be_visible()
    deadline = time.monotonic() + 30
    while part(page, "question-row").count() < 150 and time.monotonic() < deadline:
        page.mouse.wheel(0, 10_000)
        page.wait_for_timeout(50)
    expect(part(page, "question-row")).to_have_count(150)


def test_a_node_shows_its_words_its_score_its_calls_and_its_prompt(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    question = a_solved_question(run)
    nodes = {row["id"]: row for row in run.dump["node"] if row["question"] == question}
    best = next(
        row for row in run.dump["trajectory"] if row["question"] == question and row["best"] and row["origin"] == "search"
    )
    page = opened(f"{url}#/questions/{question}")
    expect(part(page, "tree-node")).to_have_count(len(nodes))
    on_path = page.locator('[data-test="tree-node"][data-on]')
    path = json.loads(best["nodes"])
    expect(on_path).to_have_count(len(path))
    assert {each.get_attribute("data-id") for each in on_path.all()} == set(path)
    for id, row in nodes.items():
        expect(page.locator(f'[data-id="{id}"][data-test="tree-node"]')).to_have_attribute("data-state", row["state"])
    chosen = on_path.first.get_attribute("data-id")
    assert chosen
    on_path.first.click()
    details = part(page, "details")
    expect(details).to_contain_text(nodes[chosen]["text"].splitlines()[-1])
    expect(details).to_contain_text(f"{nodes[chosen]['score']:.3f}")
    expect(part(details, "logprobs")).to_be_visible()
    expect(page).to_have_url(re.compile(f"node={chosen}"))
    part(details, "call").first.click()
    asked = next(row["text"] for row in run.dump["question"] if row["id"] == question)
    expect(details).to_contain_text(asked)  # the prompt as it was sent


def test_two_siblings_stand_side_by_side(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    question = a_solved_question(run)
    one, other = [row for row in run.dump["node"] if row["question"] == question and row["parent"] is None][:2]
    page = opened(f"{url}#/questions/{question}?node={one['id']}&compare={other['id']}")
    compared = part(page, "compare")
    for row in (one, other):
        expect(compared).to_contain_text(row["text"].splitlines()[0][:60])
        expect(compared).to_contain_text(f"{row['score']:.3f}")
    page.keyboard.press("Escape")
    expect(compared).to_have_count(0)


def test_the_consensus_and_the_rulings_of_a_question(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    question = a_solved_question(run)
    mine = [row for row in run.dump["trajectory"] if row["question"] == question]
    page = opened(f"{url}#/questions/{question}?tab=consensus")
    expect(part(page, "graph-node")).to_have_count(len(mine))
    expect(part(page, "consensus-table")).to_contain_text(mine[0]["answer"])
    part(page, "tab-trajectories").click()
    ruled = next(row for row in run.dump["ruling"] if row["trajectory"] in {each["id"] for each in mine})
    expect(page.locator("main")).to_contain_text(ruled["reason"][:40])


def test_filters_are_in_the_address_and_give_what_the_rows_give(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    word = "bus"
    wanted = [row for row in run.dump["question"] if word in row["text"].lower() and row["state"] == "unsolved"]
    assert wanted
    page = opened(f"{url}#/questions")
    expect(part(page, "question-row").first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type(word)
    expect(page).to_have_url(re.compile(f"text={word}"))
    page.goto(page.url + "&state=unsolved")
    expect(part(page, "question-row")).to_have_count(min(50, len(wanted)))
    shared = page.url
    other = opened(shared)
    expect(part(other, "question-row")).to_have_count(min(50, len(wanted)))
    verdicts = {row["trajectory"]: row["outcome"] for row in run.dump["verdict"]}
    unsound = [row for row in run.dump["trajectory"] if verdicts[row["id"]] == "unsound"]
    page.goto(f"{url}#/trajectories?verdict=unsound")
    expect(part(page, "trajectory-row")).to_have_count(min(50, len(unsound)))
    page.go_back()
    expect(part(page, "question-row")).to_have_count(min(50, len(wanted)))


def test_keys_lead_everywhere(finished: tuple[Path, str], opened: Opened) -> None:
    folder, url = finished
    question = a_solved_question(kept(folder / RUN))
    page = opened(url)
    expect(part(page, "state")).to_be_visible()
    for key, view in (("q", "questions"), ("t", "trajectories"), ("s", "students"), ("r", "run")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page).to_have_url(re.compile(f"#/{view}$"))
    page.keyboard.press("?")
    expect(part(page, "help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(part(page, "help")).to_be_hidden()
    page.goto(f"{url}#/questions")
    expect(part(page, "question-row").first).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(part(page, "question")).to_be_visible()
    page.goto(f"{url}#/questions/{question}")
    part(page, "tree").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(part(page, "details")).to_be_visible()
    page.keyboard.press("Escape")
    expect(part(page, "details")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_keeps_anybody_from_using_it(finished: tuple[Path, str], opened: Opened, theme: str) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    question = a_solved_question(run)
    first = next(row["id"] for row in run.dump["node"] if row["question"] == question)
    places = [
        *(f"#/{view}" for view in VIEWS),
        *(f"#/questions/{question}?tab={tab}" for tab in ("trajectories", "consensus", "calls")),
    ]
    places += [f"#/questions/{question}?node={first}", f"#/trajectories/{run.dump['trajectory'][0]['id']}"]
    page = opened(url, theme=theme, bypass_csp=True)
    page.add_script_tag(content=Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    for place in places:
        page.goto(f"{url}{place}")
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        page.wait_for_timeout(700)
        found = page.evaluate("axe.run().then(({violations}) => violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
        assert not [each for each in found if each[0] in ("serious", "critical")], (place, found)


@pytest.mark.parametrize("width", [400, 1400, 3840])
def test_no_view_is_wider_than_the_window(finished: tuple[Path, str], opened: Opened, width: int) -> None:
    folder, url = finished
    run = kept(folder / RUN)
    question = a_solved_question(run)
    page = opened(url, width=width)
    places = [*(f"#/{view}" for view in VIEWS), f"#/questions/{question}", f"#/questions/{question}?tab=consensus"]
    for place in [*places, f"#/trajectories/{run.dump['trajectory'][0]['id']}"]:
        page.goto(f"{url}{place}")
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place


# Living runs


def test_a_tree_grows_while_it_is_looked_at(tmp_path: Path, opened: Opened) -> None:
    slow = {"latency_s": 0.4, "skill": 0.9, "steps": 4}
    name = config(tmp_path, count=2, engine=slow, limits={"questions": 1}, http={"port": 0})
    with living("run", name, cwd=tmp_path) as process:
        page = opened(address(process))
        expect(part(page, "state")).to_have_text("running")
        expect(part(page, "connection")).to_have_text("live")
        page.goto(f"{page.url.partition('#')[0]}#/questions?state=leased")
        part(page, "question-row").first.get_by_role("link").first.click()
        seen = set()
        deadline = time.monotonic() + 60
        while part(page, "question").get_attribute("data-state") == "leased" and time.monotonic() < deadline:
            seen.add(part(page, "tree-node").count())
            time.sleep(0.1)
        assert len(seen - {0}) >= 2, seen
        expect(part(page, "question")).to_have_attribute("data-state", re.compile("solved"))
        assert process.wait(60) == 0


def test_a_run_is_paused_resumed_and_set_at_the_page(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERIPATOS_TOKEN", TOKEN)
    http = {"port": 0, "token": "PERIPATOS_TOKEN"}
    name = config(tmp_path, count=40, engine={"latency_s": 0.2}, limits={"questions": 2}, http=http)
    with living("run", name, cwd=tmp_path) as process:
        page = opened(f"{address(process)}#token={TOKEN}")
        assert TOKEN not in page.url
        part(page, "by-input").first.fill("eve")
        part(page, "pause-run").click()
        expect(part(page, "state")).to_have_text("paused")
        expect(part(page, "alert").first).to_contain_text("paused by eve")
        part(page, "resume-run").click()
        expect(part(page, "state")).to_have_text("running")
        page.goto(f"{page.url.partition('#')[0]}#/controls")
        part(page, "set-key").select_option("limits.questions")
        part(page, "set-value").fill("5")
        part(page, "set-send").click()
        expect(part(page, "control-row")).to_have_count(3)
        part(page, "set-value").fill("none at all")
        part(page, "set-send").click()
        expect(part(page, "told").filter(has_text="is no number")).to_be_visible()
        process.kill()
        ended(process)
    controls = kept(tmp_path / RUN).dump["control"]
    assert [(row["verb"], row["by"]) for row in controls] == [("pause", "eve"), ("resume", "eve"), ("set", "eve")]


def test_without_the_token_nothing_is_controlled(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERIPATOS_TOKEN", TOKEN)
    http = {"port": 0, "token": "PERIPATOS_TOKEN"}
    with living("run", config(tmp_path, count=40, engine={"latency_s": 0.3}, http=http), cwd=tmp_path) as process:
        page = opened(address(process))
        part(page, "pause-run").click()
        expect(part(page, "token-dialog")).to_be_visible()
        assert not kept(tmp_path / RUN).dump["control"]
        part(page, "token-input").fill(TOKEN)
        part(page, "token-keep").click()
        part(page, "pause-run").click()
        expect(part(page, "state")).to_have_text("paused")


@pytest.mark.chaos
def test_the_page_of_a_daemon_that_was_killed_and_started_again_misses_nothing(tmp_path: Path, opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    name = config(tmp_path, count=25, engine={"latency_s": 0.1}, limits={"questions": 2}, http={"port": port})
    with living("run", name, cwd=tmp_path) as process:
        page = opened(address(process))
        expect(part(page, "connection")).to_have_text("live")
        heard(process, "  ")
        process.kill()
        ended(process)
    expect(part(page, "connection")).to_have_text("reconnecting…")
    with living("run", name, cwd=tmp_path) as process:
        expect(part(page, "connection")).to_have_text("live")
        expect(part(page, "state")).to_have_text("running")
        heard(process, "  ")
        fine("pause", str(RUN), cwd=tmp_path)
        expect(part(page, "state")).to_have_text("paused")
        page.wait_for_timeout(1500)  # what was in flight is home, and told
        counts = kept(tmp_path / RUN).counts
        assert counts["questions.solved"] + counts["questions.unsolved"] > 0
        for state in ("solved", "unsolved", "leased", "pending"):
            expect(part(page, f"questions-{state}")).to_have_text(str(counts[f"questions.{state}"]))
        fine("resume", str(RUN), cwd=tmp_path)
        expect(part(page, "state")).to_have_text("running")
        process.kill()
        ended(process)


def test_a_run_whose_process_was_killed_is_lost_or_interrupted_in_plain_sight(tmp_path: Path, opened: Opened) -> None:
    with living("run", config(tmp_path, count=20, engine={"latency_s": 0.2}), cwd=tmp_path) as process:
        heard(process, "  ")
        process.kill()
        ended(process)
    with inspecting(tmp_path) as url:
        page = opened(url)
        expect(part(page, "state")).to_have_text(re.compile("running|lost"))
        expect(part(page, "alert").first).to_contain_text("its process is gone", timeout=40_000)


def test_of_students_losses_weights_and_lessons_are_shown(opened: Opened, students: str) -> None:
    page = opened(f"{students}#/students")
    expect(part(page, "student-card")).to_have_count(2)
    page.goto(f"{students}#/students/small")
    expect(page.locator("canvas").first).to_be_visible()
    expect(part(page, "gates")).to_be_visible()
    expect(part(page, "lesson-row").first).to_be_visible()


# Texts that want to be more than text

HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>",
    "markup": "<b onclick=alert(1)>bold</b><svg/onload=window.hacked=1> &lt;b&gt;",
    "link": "[here](javascript:window.hacked=1) javascript:window.hacked=1",
    "braces": "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1} <%= 1 %>",
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "marks": "one \u202eowt\u202c three \u2066four\u2069 \u200efive",
    "null": "before\x00after",
    "maths": r"$\href{javascript:window.hacked=1}{x}$ $\htmlClass{a}{x}$ $$" + "{" * 500 + "$$ \\(\\def\\a{\\a\\a}\\a\\)",
    "long": "x" * 1_000_000,
}


async def hostile(store: Any) -> None:
    await begin(store, 1)
    asked = [replace(question(100 + number), text=text) for number, text in enumerate(HOSTILE.values())]
    await store.add_questions(asked, split="train")
    about = asked[0]
    nodes = [node(name, about, text, title=text[:200], author="ann") for name, text in HOSTILE.items()]
    await store.record_advance(Advance(question=about.id, kept=tuple(nodes)))
    found = [sampled(about, name, text) for name, text in HOSTILE.items()]
    verdicts = [Verdict(trajectory=each.id, outcome=Outcome.WRONG_ANSWER, reason=each.text[:500]) for each in found]
    await store.settle_question(about.id, QuestionState.UNSOLVED, HOSTILE["markup"], found, verdicts, [])
    await store.record_failure(Failure(id="f", where="here", kind="Odd", message=HOSTILE["script"], tries=1, subject=about.id))


def test_what_models_write_is_text_and_nothing_else(tmp_path: Path, opened: Opened) -> None:
    folder = in_a_thread(make, tmp_path, hostile)
    with served(folder) as site:
        page = opened(f"{site.url}/#/questions")
        expect(part(page, "question-row").filter(has_text="<script>window.hacked")).to_be_visible()
        expect(part(page, "question-row").filter(has_text="\u241b[31mred")).to_be_visible()
        expect(part(page, "question-row").filter(has_text="before\u2400after")).to_be_visible()
        expect(part(page, "question-row").filter(has_text="U+202E")).to_be_visible()
        for row in rows(folder, "question"):
            page.goto(f"{site.url}/#/questions/{row['id']}")
            expect(part(page, "question")).to_be_visible()
        about = question(100).id
        for row in rows(folder, "node"):
            page.goto(f"{site.url}/#/questions/{about}?node={row['id']}")
            expect(part(page, "details")).to_contain_text(visible_start(row["text"]))
        for row in rows(folder, "trajectory"):
            page.goto(f"{site.url}/#/trajectories/{row['id']}")
            expect(part(page, "trajectory")).to_be_visible()
        for place in ("trajectories", "failures", f"questions/{about}?tab=trajectories", f"questions/{about}?tab=failures"):
            page.goto(f"{site.url}/#/{place}")
            expect(page.locator("main")).to_contain_text("<script>window.hacked")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script, main b[onclick], main a[href^=javascript]").count() == 0


def visible_start(text: str) -> str:
    """How a text begins, up to what is shown otherwise."""
    return re.split(r"[\x00-\x1f\u200e\u202e\u2066$\\]", text.partition("\n")[2] or text)[0][:200].strip()


def test_a_megabyte_of_text_is_shown_when_asked_for(tmp_path: Path, opened: Opened) -> None:
    folder = in_a_thread(make, tmp_path, hostile)
    with served(folder) as site:
        page = opened(f"{site.url}/#/questions/{question(100).id}?node=long")
        expect(part(page, "details")).to_contain_text("x" * 1000)
        assert len(part(page, "details").inner_text()) < 30_000
        part(part(page, "details"), "show-all").first.click()
        deadline = time.monotonic() + 15
        while len(part(page, "details").text_content() or "") < 1_000_000 and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        assert len(part(page, "details").text_content() or "") > 1_000_000
