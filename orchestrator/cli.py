"""The command line: run, status, inspect, pause, resume, requeue, set, export, evaluate, recipes, doctor.

Exit codes: 0 done, 1 failed (the environment), 2 wrong input, 130 and 143 interrupted. Invariant: a mistake is one line
on stderr for each mistake, without a traceback; `--help` imports nothing heavy, so commands import what they need.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.exports.columns import FORMATS
from orchestrator.names import NameTaken, check_names

_SAMPLE = 3


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, exit 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def entry(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn every known error into one line and an exit code."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads make a busy machine 5 to 10 times slower
    try:
        check_names()  # before anything of ours is imported
        code = options.command(options)
        sys.stdout.flush()  # so that an output that takes nothing is told by us
        return code
    except KeyboardInterrupt:
        return 130
    except NameTaken as error:
        return _complain([error], 1)
    except Exception as error:  # noqa: BLE001  # the outermost boundary: known errors are told in a line, the rest is raised
        return _known(error)


def _known(error: Exception) -> int:
    """The exit code for an error that has a line of its own; anything else is a defect of ours and is raised."""
    from agents.errors import EngineError, ModelNotFound
    from configs.load import ConfigError
    from orchestrator.daemon import Interrupted
    from orchestrator.folder import FolderError
    from orchestrator.inspector.process import PortTaken
    from orchestrator.questions.load import QuestionsError
    from orchestrator.supervisor import ChildFailed, ChildRefused
    from store.store import StoreError

    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, Interrupted):
            sys.stderr.write("interrupted; the same command resumes\n")
            return leaf.code
    if wrong := [leaf for leaf in leaves if isinstance(leaf, ConfigError | QuestionsError | ChildRefused)]:
        return _complain(wrong, 2)
    environment = EngineError | ModelNotFound | PortTaken | FolderError | ChildFailed | StoreError
    if failed := [leaf for leaf in leaves if isinstance(leaf, environment)]:
        return _complain(failed, 1)
    if outside := [leaf for leaf in leaves if isinstance(leaf, OSError)]:
        return _outside(outside[0])
    raise error


def _outside(error: OSError) -> int:
    """Tell of an error of the system; a reader of our output that has gone (`| head`) needs no telling."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still unwritten would fail again at exit
    if isinstance(error, BrokenPipeError):
        return 1
    return _complain([f"{error.filename or 'standard output'}: {error.strerror or error}"], 1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _complain(errors: list[Any], code: int) -> int:
    for line in dict.fromkeys(str(error) for error in errors):
        with contextlib.suppress(OSError):
            sys.stderr.write(f"peripatos: {line}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="peripatos", description=__doc__ and "Several teachers reason together, step by step; students learn from it."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    run = add("run", _run, "run a configuration, or resume it: the same command does both")
    _takes_config(run)
    run.add_argument("--dry-run", action="store_true", help="solve a few questions, tell what all will take, and stop")
    run.add_argument("--sample", type=_positive, metavar="N", help=f"questions that a dry run solves; default: {_SAMPLE}")
    run.add_argument("--json", action="store_true", help="print one JSON summary object as the last line of stdout")

    status = add("status", _status, "how a run stands, living or finished")
    status.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument("--watch", action="store_true", help="show the run and its latest tree, until Ctrl-C or the run's end")

    inspect = add("inspect", _inspect, "look at a run in a browser, living or finished, without changing it")
    inspect.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder")
    inspect.add_argument("--port", type=_port, default=0, metavar="N", help="port on this machine; default: any free one")
    inspect.add_argument("--fd", type=_positive, help=argparse.SUPPRESS)  # a run's own: the socket that it listens on

    _verbs(add)

    export = add("export", _export, "write a run's data as files to train on")
    export.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder")
    export.add_argument(
        "--format",
        choices=FORMATS,
        default="messages",
        help="messages (default), sharegpt, alpaca, parquet: accepted trajectories; preferences: steps kept and pruned; "
        "pairs: trajectories accepted and wrong; nodes: every step; trajectories: every trajectory; "
        "dataset: a folder for `datasets` and the hub, with a card",
    )
    export.add_argument("--to", metavar="PATH", help="where to write; default: in the run's folder's export/")
    export.add_argument("--best", action="store_true", help="of the accepted trajectories only the best of each question")

    evaluate = add(
        "evaluate", _evaluate, "measure a model on a configuration's held-out questions, or put together what runs have measured"
    )
    what = "a YAML file or the name of a recipe; or the folders of one or more runs of the same recipe"
    evaluate.add_argument("what", metavar="CONFIG_OR_RECIPE | RUN_DIR", nargs="+", help=what)
    _takes_overrides(evaluate)
    evaluate.add_argument("--student", metavar="NAME", help="whose model, asked as this student is; default: the first one")
    evaluate.add_argument("--model", help="a folder or hub id; default: the student's model")
    evaluate.add_argument("--adapter", metavar="DIR", help="a LoRA adapter, such as RUN_DIR/students/NAME/final")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")

    add("recipes", _recipes, "list the shipped configurations")

    doctor = add("doctor", _doctor, "check this machine, and what the engines of a configuration can do")
    doctor.add_argument("config", metavar="CONFIG_OR_RECIPE", nargs="?", help="also open its engines")
    _takes_overrides(doctor)
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _verbs(add: Any) -> None:
    """What may be asked of a run while it lives; also for its next life."""

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        command = add(name, _ask, text)
        command.set_defaults(verb=name, subject="", value=None)
        command.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder")
        command.add_argument("--by", metavar="NAME", help="who asks; default: the user's name")
        return command

    for name, text in (("pause", "ask nobody, or one teacher, until `resume`"), ("resume", "go on after `pause`")):
        verb(name, text).add_argument("--teacher", dest="subject", default="", metavar="NAME", help="one teacher; default: all")
    requeue = verb("requeue", "let an unsolved question be solved again; what is paid for is not asked again")
    requeue.add_argument("subject", metavar="QUESTION", help="its id")
    put = verb("set", "change a limit or a budget, such as limits.questions=16 or budget.usd=30")
    put.add_argument("assignment", metavar="KEY=VALUE", help="the key, and its new value; nothing: no limit")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; accepted: 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _takes_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG_OR_RECIPE", help="a YAML file, or the name of a recipe")
    _takes_overrides(command)


def _takes_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a key, such as search.beam=8")


def _run(options: argparse.Namespace) -> int:
    from configs.load import ConfigError, load
    from orchestrator import commands

    if options.sample and not options.dry_run:
        raise ConfigError("--sample: only a dry run takes a sample; add --dry-run, or leave it out")
    sample = (options.sample or _SAMPLE) if options.dry_run else None
    return commands.run(load(options.config, options.set), sample=sample, as_json=options.json)


def _status(options: argparse.Namespace) -> int:
    from orchestrator import commands

    if options.watch:
        from configs.load import ConfigError
        from orchestrator.watch import watch

        if options.json:
            raise ConfigError("status: --watch is for people and --json for programs; accepted: one of them")
        return watch(*commands.existing(options.run_dir))
    return commands.status(options.run_dir, as_json=options.json)


def _inspect(options: argparse.Namespace) -> int:
    from orchestrator import commands
    from orchestrator.inspector.command import inspect

    return inspect(*commands.existing(options.run_dir), port=options.port, fd=options.fd)


def _ask(options: argparse.Namespace) -> int:
    from configs.load import ConfigError
    from orchestrator import commands

    subject, value = options.subject, options.value
    if options.verb == "set":
        subject, equals, value = options.assignment.partition("=")
        if not equals:
            raise ConfigError(f"set: {options.assignment!r} has no value; accepted: KEY=VALUE, such as budget.usd=30")
    return commands.ask(options.run_dir, options.verb, subject, value, by=options.by)


def _export(options: argparse.Namespace) -> int:
    from orchestrator import commands

    return commands.export(options.run_dir, options.to, form=options.format, best_only=options.best)


def _evaluate(options: argparse.Namespace) -> int:
    from configs.load import ConfigError, load, recipes
    from orchestrator import commands

    first, *others = options.what
    if others or (Path(first).is_dir() and first not in recipes()):
        for key in ("set", "student", "model", "adapter"):
            if getattr(options, key):
                raise ConfigError(f"--{key}: is for measuring a configuration's model; of runs, what they have measured is told")
        return commands.compare(options.what, as_json=options.json)
    return commands.evaluate(
        load(first, options.set), student=options.student, model=options.model, adapter=options.adapter, as_json=options.json
    )


def _recipes(options: argparse.Namespace) -> int:
    from configs.load import recipes

    known = recipes()
    width = max(map(len, known))
    for name, text in known.items():
        sys.stdout.write(f"{name:{width}} {text}\n")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from configs.load import load
    from orchestrator.doctor import doctor

    config = load(options.config, options.set) if options.config else None
    report = doctor(config)
    if options.json:
        sys.stdout.write(json.dumps(report.row()) + "\n")
    else:
        sys.stdout.write(report.text())
    return 0 if report.good else 1
