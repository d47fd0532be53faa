"""The command line. Heavy modules are imported by the command that needs them, so `--help` answers at once.

Exit codes: 0 done; 2 something the user can mend, said in one line; 143 ended by SIGTERM and 129 by SIGHUP,
what was done is saved; anything else is a bug of ours.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence

from tag2mask.errors import InputError, Terminated, unknown

HELP = """\
tag2mask: image tags in, pixel masks out.

  tag2mask demo                                      embedded data and weights, no network: trains, labels,
                                                     measures, writes a report
  tag2mask doctor DATA                               what is wrong with a data set, before hours are spent on it
  tag2mask tags DATA [--out FILE]                    tags that look wrong or missing, as a table to correct
  tag2mask train  DATA --method cam --out RUN        tags -> maps -> masks -> trained segmenter -> scores -> report
  tag2mask label  DATA --method cam --out RUN        tags -> masks for those photos; stops before the segmenter
  tag2mask plan   DATA --out RUN                     what train would do: what is done, what is made anew and why
  tag2mask predict RUN IMAGES --out DIR              masks for new, untagged photos with the run's segmenter
  tag2mask merge DIR                                 is every shard of `predict --shard i/n`, `label --shard i/n` there?
  tag2mask saliency DATA --out DIR                   saliency maps of the photos (train, label: --saliency auto)
  tag2mask evaluate PREDICTED TRUTH [--classes FILE|a,b,c] [--json]
                                                     any folder of index masks against any other
  tag2mask export RUN --to FORMAT --out DIR          masks for annotation tools: coco, label-studio, cvat, labelme,
                                                     yolo, voc, png; or the segmenter itself: onnx, bundle
  tag2mask import RUN CORRECTED --from FORMAT        take corrected masks back, to measure on them (--from review:
                                                     those of the page, without CORRECTED):
  tag2mask evaluate RUN --check                      mean IoU on corrected masks, with its interval
  tag2mask compare RUN RUN ... [--out PAGE.html] [--json]
                                                     the same photos, spread over seeds, intervals, minutes
  tag2mask report RUN                                write RUN/report.html again
  tag2mask serve RUN                                 a page: try photos, review and correct masks
  tag2mask review RUN [--tags FILE]                  what was decided there, the corrected tags as a CSV
  tag2mask list methods|recipes|datasets|backbones|propagations|refiners|segmenters|formats
  tag2mask completion bash|zsh|fish                  a script that completes commands and flags in the shell
  tag2mask download voc2012|pets|coco2014 --to DIR   public data sets, checked

`tag2mask COMMAND --help` shows its settings; for train and label the first of them, `--help-all` every one. `--quiet`
shows errors alone; `--json` (train, label, demo, predict) one event a line. DATA is a folder with images/ and tags.csv
(image,tags), one folder per class, or VOC's, COCO's, YOLO's or an anomaly set's layout (`list datasets`).
"""

SHARED = ("train", "label", "demo", "predict")  # commands whose work several processes share
CANNOT_WRITE = (
    errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO, errno.ELOOP, errno.ESTALE,
    errno.ETIMEDOUT,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a command, prints what the user can mend as one line, exits."""
    from tag2mask import interrupt

    program = arguments is None  # of its own, not a test within another
    given = list(sys.argv[1:] if arguments is None else arguments)
    if program:
        interrupt.handle_signals()
        _print_anything()
    try:
        code = dispatch(given)
        sys.stdout.flush()
    except InputError as error:
        from tag2mask.cli.flags import as_given

        code = fail_for_all(as_given(" ".join(str(error).split()), given))
    except KeyboardInterrupt:
        code = fail_for_all("interrupted: run the same command again to go on; finished work is kept")
        if program:
            interrupt.end_process(code)
    except Terminated:
        interrupt.cancel_cut_off()
        with contextlib.suppress(OSError):  # the terminal is gone
            fail_for_all("asked to end: run the same command again to go on; finished work is kept")
        code = interrupt.exit_code()
        if program:
            interrupt.end_process(code)
    except BrokenPipeError:  # the reader of our output has gone; what is left to say has nobody to hear it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        place = _cannot_write(error)
        if place is None:
            raise
        code = fail(f"cannot write {place}: {error.strerror}; {_advice(error, given)}")
    sys.exit(code)


def _cannot_write(error: OSError) -> str | None:
    """What could not be written; None: the error is of something else.

    A file that is not there is one that is read, and a bug of ours, but where its name is one that is only written to.
    """
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "a file"
    if error.errno in CANNOT_WRITE:
        return name
    folder, last = os.path.split(name)
    unfinished = last.startswith(".") and last.endswith((".tmp", ".writing"))  # as tag2mask.files writes
    return (folder or "here") if error.errno == errno.ENOENT and unfinished else None


NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
WITHOUT_OUT = {"report", "import", "serve", "merge", "evaluate", "download"}  # write into the run, or to a --to
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _advice(error: OSError, given: Sequence[str]) -> str:
    """What to do when a file cannot be written: not every command has an --out."""
    if error.errno in NO_SPACE:
        first = "free some space"
    elif error.errno in NOT_ALLOWED:
        first = "make that place writable"
    else:
        first = "mend that place"
    return first if set(given[:1]) & WITHOUT_OUT else f"{first} or choose another --out"


def _print_anything() -> None:
    """Names of classes and files in any alphabet, whatever the terminal can show: the rest as ``\\u0444``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def fail_for_all(message: str) -> int:
    """:func:`fail`; of several processes one says it."""
    if "WORLD_SIZE" not in os.environ:
        return fail(message)
    from tag2mask import processes

    if processes.tell_failure(message):
        fail(message)
        processes.tell_said()
    return 2


def fail(message: str) -> int:
    """Print the one line of an error; its exit code. Programs that asked for events get one, too."""
    from tag2mask.cli.flags import tell_error

    tell_error(message)
    encoding = sys.stderr.encoding or "utf-8"
    print(f"tag2mask: {message}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)
    return 2


def commands() -> dict[str, Callable[[list[str]], int]]:
    """Command name to what runs it, given the arguments after it."""
    from tag2mask.cli import completion, data_sets, exchange, lists, measuring, prediction, runs, serving

    return {
        "demo": runs.demo,
        "doctor": data_sets.doctor,
        "tags": data_sets.tags,
        "train": runs.train,
        "label": runs.label,
        "plan": runs.plan,
        "predict": prediction.predict,
        "merge": prediction.merge,
        "saliency": data_sets.saliency,
        "evaluate": measuring.evaluate,
        "export": exchange.export,
        "import": exchange.take_back,
        "compare": measuring.compare,
        "report": measuring.report,
        "serve": serving.serve,
        "review": serving.review,
        "list": lists.list_names,
        "download": data_sets.download,
        "completion": lambda arguments: completion.completion(arguments, commands()),
    }


def dispatch(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        from tag2mask import __version__

        print(__version__)
        return 0
    table = commands()
    if arguments[0] not in table:
        raise unknown("command", arguments[0], table)
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # we say ourselves which process is lost
        from tag2mask import processes

        if arguments[0] in SHARED:
            processes.join()
        elif not processes.place().is_main:
            return 0  # the main process does it
    from tag2mask.cli.flags import choose_output

    return table[arguments[0]](choose_output(arguments[0], arguments[1:]))
