"""The first screen of `tag2mask train --help`: the settings that people change, by what they want. All are in
`--help-all`."""

from __future__ import annotations

HEAD = """\
usage: tag2mask {command} DATA --out RUN [settings]

  tag2mask {command} photos --out run                   {gives}
  tag2mask {command} photos --out run --recipe quick    {quick}

DATA is a folder with images/ and tags.csv (image,tags), one folder per class, or VOC's, COCO's or YOLO's layout.
The same command goes on where it was interrupted; a changed setting makes anew only what depends on it.

"""

GIVES = {
    "train": ("masks of these photos, a segmenter for others, report.html", "a first look, in a fraction of the time"),
    "label": ("masks of these photos, report.html", "a first look, in a fraction of the time"),
    "plan": ("what train would do, what it would make anew and why", "the same of other settings"),
}

# what people want -> flag and one line each, [default]; every flag is one of --help-all, of SHORT, or of the command
# itself (tested)
GROUPS: dict[str, dict[str, str]] = {
    "to choose what is learnt": {
        "--classes a,b,c": "only these classes, or a file of names [all]",
        "--tags FILE": "where the tags are, if not where the layout has them",
        "--negatives drop": "leave out photos that show none of the classes, which teach background [keep]",
        "--truth DIR": "true masks, only to measure; nothing learns from them",
    },
    "better masks": {
        "--recipe NAME": "a named set of settings: quick, saliency, ... (tag2mask list recipes) [default]",
        "--method NAME": "how objects are found: mcis, apc, eps, ... (tag2mask list methods) [cam]",
        "--saliency DIR": "saliency maps, for methods that learn from them; auto, self-supervised: made here",
        "--self-train smaf": "a student learns from the method's own maps [none]",
        "--propagate irn": "spread the maps along learnt borders first (tag2mask list propagations) [none]",
        "--backbone NAME": "any timm model (tag2mask list backbones) [tf_efficientnet_lite0]",
        "--weights FILE": "weights of the backbone, or none; the default backbone's are embedded [auto]",
    },
    "larger or smaller masks, other borders": {
        "--threshold T": "0 to 1: lower is larger masks; by default one is found for each class, without truth",
        "--refine NAMES": "crf, par, none, or several in turn (tag2mask list refiners), of run/masks [crf]",
        "--relabel.refine NAMES": "the same of relabelled masks, run/masks-2 [crf/deeplab]",
        "--inference.refine NAMES": "the same of new photos' masks [crf/deeplab]",
    },
    "a better segmenter for new photos": {
        "--segmenter NAME": "deeplab-v2, smp:unet, ... (tag2mask list segmenters) [decoder]",
        "--with-masks": "also learn from masks that people corrected (tag2mask import)",
        "--relabel.rounds N": "how often it makes the masks of its own photos again, and learns from them [2]",
        "--inference.long-side N": "pixels of a new photo's longer side; larger finds smaller objects [384]",
    },
    "less time, less memory": {
        "--epochs N": "passes over the photos; auto: as many as 300 steps are, at least 1 [auto]",
        "--freeze": "compute the backbone's features once, train heads alone; --recipe frozen: in minutes",
        "--from RUN": "start from a finished run, and train for the share of photos that is new",
        "--train.batch-size N": "photos in a step; fewer need less memory [16]",
        "--workers N": "threads that decode photos and refine masks; 0: one a core [0]",
    },
    "figures to rely on": {
        "--seeds 0,1,2": "a run of each, compared; --seed N is that of a single run [0]",
        "--oracle-masks": "also train on true masks, to measure what tags cost",
    },
    "what is shown": {
        "--quiet": "errors alone",
        "--json": "one JSON object a line on standard output: stages, progress, log, result",
        "--help-all": "every setting",
    },
}
SEGMENTER = "a better segmenter for new photos"
SEVERAL = {
    "several machines (docs/scale.md)": {
        "--shard I/N": "the I-th of N shares of the photos; `tag2mask merge RUN` says whether all are there",
        "--until STAGE": "end after this stage: method, maps, ...",
        "--engine ray": "maps, masks and checks on the Ray cluster at RAY_ADDRESS, or a local one",
    }
}


def groups(command: str) -> dict[str, dict[str, str]]:
    """Of `label`, which trains no segmenter and can be shared out; of `plan`, which carries nothing out; or `train`."""
    if command == "plan":
        not_its = {"--seeds 0,1,2", "--json", "--quiet"}
        return {title: {f: line for f, line in flags.items() if f not in not_its} for title, flags in GROUPS.items()}
    if command != "label":
        return GROUPS
    titles = list(GROUPS)
    ours = {title: GROUPS[title] for title in titles if title != SEGMENTER}
    last = titles[-1]
    return {**{title: ours[title] for title in ours if title != last}, **SEVERAL, last: ours[last]}


def first_screen(command: str) -> str:
    """The help of a command that has a run's settings."""
    shown = groups(command)
    width = max(len(flag) for flags in shown.values() for flag in flags)
    gives, quick = GIVES[command]
    parts = [
        f"{title}\n" + "".join(f"  {flag:<{width}}  {line}\n" for flag, line in flags.items())
        for title, flags in shown.items()
    ]
    return HEAD.format(command=command, gives=gives, quick=quick) + "\n".join(parts)
