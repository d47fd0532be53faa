"""Every problem a data set can have is found, named, and comes with advice; a healthy one has none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask import doctor
from tag2mask.data import DataSettings
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.images import check_images, write_index_mask
from tag2mask.doctor import Finding
from tag2mask.doctor.photos import DETAILED
from tag2mask.errors import InputError
from tag2mask.pseudo.sizes import LARGER
from tag2mask.recipes import recipe

HEIGHT, WIDTH = 66, 90


def photo(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path)


class Barn:
    """A healthy data set of 2 x 24 + 8 photos, written once and then spoilt by each test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
        for number in range(56):
            name, split = f"{number:02d}.png", "train" if number < 48 else "val"
            photo(root / "images" / name, number)
            self.rows[split].append((name, "cow" if number % 2 else "dog"))
        self.write()

    def write(self) -> None:
        for split, rows in self.rows.items():
            lines = "".join(f"{name},{tags}\n" for name, tags in rows)
            (self.root / f"{split}.csv").write_text("image,tags\n" + lines)

    def retag(self, change) -> None:
        self.rows["train"] = [(name, change(number, tags)) for number, (name, tags) in enumerate(self.rows["train"])]
        self.write()

    def mask(self, number: int, value: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        mask = np.zeros(shape, np.uint8)
        mask[10:30, 20:70] = value
        mask[10, 20:70] = 255
        write_index_mask(self.root / "masks" / f"{number:02d}.png", mask)

    def ill(self, **settings) -> list[Finding]:
        """Findings that something is wrong."""
        found = doctor.diagnose(self.root, DataSettings(**settings), workers=1)
        return [finding for finding in found if finding.level in ("error", "warning")]

    def only(self, **settings) -> Finding:
        (finding,) = self.ill(**settings)
        assert finding.advice and "\n" not in finding.message
        return finding


@pytest.fixture
def barn(tmp_path: Path) -> Barn:
    return Barn(tmp_path)


def test_a_healthy_data_set(barn):
    for number in range(56):
        barn.mask(number, 1 if number % 2 else 2)
    findings = doctor.diagnose(barn.root, workers=1)
    text = doctor.render(findings)
    assert {finding.level for finding in findings} == {"note", "info"}
    assert "train: 48 photos; per class: cow 24, dog 24" in text
    assert "val: 8 photos; per class: cow 4, dog 4" in text
    assert "8 of 8 photos have truth" in text
    assert f"photos of {WIDTH} to {WIDTH} pixels wide, {HEIGHT} to {HEIGHT} high" in text
    assert text.endswith("no problems found")


def test_what_cannot_be_read_at_all(tmp_path):
    (finding,) = doctor.diagnose(tmp_path / "nowhere")
    assert finding.level == "error" and "is not there" in finding.message


def test_what_training_would_refuse(barn):
    (barn.root / "classes.txt").write_text("cow\ndog\nemu\n")
    messages = {finding.level: finding.message for finding in barn.ill()}
    assert "has the tag emu" in messages["error"] and "no photo of emu" in messages["warning"]


def test_no_validation_split(barn):
    (barn.root / "val.csv").unlink()
    findings = doctor.diagnose(barn.root, workers=1)
    assert any("no split 'val'" in finding.message for finding in findings)


def test_unreadable_photos_are_named(barn):
    (barn.root / "images" / "03.png").write_text("no photo")
    (barn.root / "images" / "50.png").write_bytes((barn.root / "images" / "51.png").read_bytes()[:100])
    found = barn.ill()
    assert [finding.level for finding in found] == ["warning"] * 4
    text = doctor.render(found)
    assert "03.png is not an image" in text and "train: 1 of 48 photos cannot be read" in text
    assert "50.png cannot be decoded" in text and "val: 1 of 8 photos cannot be read" in text


def test_mostly_unreadable_is_an_error(barn):
    for number in range(48, 53):
        (barn.root / "images" / f"{number}.png").write_text("no photo")
    assert any(finding.level == "error" and "5 of 8" in finding.message for finding in barn.ill())


def test_a_photo_in_both_splits(barn):
    content = (barn.root / "images" / "05.png").read_bytes()
    (barn.root / "images" / "49.png").write_bytes(content)
    finding = barn.only()
    assert finding.level == "error" and "train/05 = val/49" in finding.message


def test_copies_within_a_split(barn):
    (barn.root / "images" / "07.png").write_bytes((barn.root / "images" / "05.png").read_bytes())
    finding = barn.only()
    assert finding.level == "warning" and "05 = 07" in finding.message


def test_tiny_and_huge_photos(barn, monkeypatch):
    monkeypatch.setattr("tag2mask.doctor.photos.HUGE", 20_000)
    photo(barn.root / "images" / "00.png", 100, height=20)
    photo(barn.root / "images" / "01.png", 101, height=150, width=140)
    tiny, huge = barn.ill()
    assert "1 photo under 64 pixels" in tiny.message and tiny.message.endswith(": 00")
    assert "huge" not in tiny.message and huge.message.endswith(": 01")


def test_photos_with_more_pixels_than_are_looked_at(barn):
    assert LARGER * recipe("default").localize.long_side == DETAILED

    def said() -> list[Finding]:
        return [x for x in doctor.diagnose(barn.root, workers=1) if "small-objects" in x.advice]

    assert said() == []
    for number in range(30):  # of 48
        photo(barn.root / "images" / f"{number:02d}.png", number, height=90, width=DETAILED)
    (finding,) = said()
    assert finding.level == "info" and "train: photos of 576 pixels on the longer side" in finding.message


def test_few_photos_and_imbalance(barn):
    barn.retag(lambda number, _: "cow" if number else "dog")
    few, imbalance = barn.ill()
    assert "fewer than 20 training photos of dog (1)" in few.message
    assert "'cow' has 47 training photos and 'dog' 1" in imbalance.message


def test_classes_that_are_always_together(barn):
    barn.retag(lambda number, tags: "cow;calf" if tags == "cow" else tags)
    together, unseen = barn.ill()
    assert "'calf' and 'cow' are always tagged together (24 photos)" in together.message
    assert "val: no photo of calf" in unseen.message


def test_a_class_never_seen_alone(barn):
    barn.retag(lambda number, tags: "cow;grass" if number in range(1, 48, 2) else "dog;grass" if number < 8 else tags)
    messages = [finding.message for finding in barn.ill()]
    assert any("24 of 24 photos of 'cow' are tagged 'grass' too" in message for message in messages)
    assert not any("photos of 'dog'" in message or "photos of 'grass'" in message for message in messages)


def test_a_class_on_every_photo(barn):
    barn.retag(lambda number, tags: f"{tags};barn")
    assert any("every training photo is tagged barn" in finding.message for finding in barn.ill())


def test_saliency_missing_and_black(barn):
    (barn.root / "saliency").mkdir()
    for number in range(48):
        grey = np.full((11, 15), 0 if number == 9 else 200, np.uint8)
        Image.fromarray(grey).save(barn.root / "saliency" / f"{number:02d}.png")
    finding = barn.only()
    assert "1 of 48 saliency maps looked at are black: 09" in finding.message
    (barn.root / "saliency" / "20.png").unlink()
    (barn.root / "saliency" / "21.png").write_text("no map")
    messages = [(finding.level, finding.message) for finding in barn.ill()]
    assert messages[0][0] == "error" and "21.png is not an image" in messages[0][1]
    assert any("1 of 48 photos have no saliency map: 20" in message for _, message in messages)


def test_truth_of_another_size(barn):
    barn.mask(50, 2, shape=(HEIGHT, WIDTH - 1))
    finding, *_ = barn.ill()
    assert finding.level == "error" and "50.png" in finding.message
    assert f"{WIDTH - 1}x{HEIGHT}" in finding.message and f"{WIDTH}x{HEIGHT}" in finding.message


def test_truth_in_the_values_of_another_data_set(barn):
    """VOC's numbers under names that are VOC's: the advice is the very option that helps."""
    for number in range(48, 56):
        barn.mask(number, 10 if number % 2 else 12)
    finding = barn.only()
    assert finding.level == "error"
    assert "val: truth masks hold values 10, 12 that are no class (cow=1, dog=2)" in finding.message
    assert "never show cow, dog" in finding.message
    assert "--truth-values cow=10 dog=12" in finding.advice
    assert barn.ill(truth_values=("cow=10", "dog=12")) == []


def test_truth_with_two_values_exchanged(barn):
    """Values that are all classes, but not those of the tags."""
    for number in range(48, 56):
        barn.mask(number, 2 if number % 2 else 1)
    finding = barn.only()
    assert finding.level == "error" and "never show cow, dog where the tags do" in finding.message


def test_classes_left_out_are_not_strange(barn):
    for number in range(48, 56):
        barn.mask(number, 1 if number % 2 else 2)
    for photo_number in range(4):
        barn.rows["train"][photo_number] = (barn.rows["train"][photo_number][0], "cow;dog")
    barn.write()
    assert barn.ill(classes=("cow",)) == []


def test_truth_of_background_only(barn):
    for number in range(48, 50):
        barn.mask(number, 0)
    (finding,) = barn.ill()
    assert "hold background only" in finding.message


@pytest.mark.parametrize("classes", ["cow;dog", "cow"])
def test_truth_in_0_and_255(barn, classes):
    """The commonest binary mask: 255 means "do not care", so nothing would be measured."""
    for number in range(48, 56):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[10:40, 20:70] = 255
        write_index_mask(barn.root / "masks" / f"{number:02d}.png", mask)
    finding = barn.only()
    assert finding.level == "error" and "0 and 255 only" in finding.message
    assert "write the class's number in place of 255: 1 where" in finding.advice and "cow=1, dog=2" in finding.advice


def test_tiny_objects_of_255(barn):
    barn.mask(50, 0)
    (finding,) = barn.ill()
    assert finding.level == "warning" and "background only and 255 (0.8 % of the pixels)" in finding.message
    assert "write the class's number" in finding.advice


def test_truth_in_colour_or_jpeg(barn):
    for number, name in ((50, "50.png"), (51, "51.jpg")):
        (barn.root / "masks").mkdir(exist_ok=True)
        photo(barn.root / "masks" / name, number)
    colour, jpeg = barn.ill()
    assert colour.level == jpeg.level == "error"
    assert "50.png is a colour image (RGB)" in colour.message and "51.jpg is a JPEG" in jpeg.message


@pytest.mark.parametrize(
    "name", ["50_mask.png", "50.PNG", "50-gt.png", "50_labelIds.png", "50.tif", "50.png.png", "50.jpg.png"]
)
@pytest.mark.parametrize("folder", ["masks", "Masks", "mask", "ground_truth", "GT"])
def test_truth_in_other_spellings(barn, name, folder):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:70] = 2
    (barn.root / folder).mkdir()
    Image.fromarray(mask).save(barn.root / folder / name)
    findings = doctor.diagnose(barn.root, workers=1)
    assert any("val: 1 of 8 photos have truth" in finding.message for finding in findings)


def test_truth_that_is_not_found(barn):
    barn.mask(50, 2)
    (barn.root / "masks" / "50.png").rename(barn.root / "masks" / "mask50.png")
    finding = barn.only()
    assert finding.level == "warning" and "mask50.png" in finding.message
    assert "none of the 1 truth mask in" in finding.message
    assert barn.only(truth=barn.root / "masks").level == "error"  # asked for
    (barn.root / "nothing").mkdir()
    assert "nothing holds no truth masks" in barn.only(truth=barn.root / "nothing").message
    barn.mask(50, 2)
    finding = barn.only()
    assert finding.level == "warning" and "1 of 2 truth masks in" in finding.message


def test_photos_outside_the_folder(barn, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "99.png"
    photo(elsewhere, 99)
    barn.rows["train"].append((str(elsewhere), "cow"))
    barn.write()
    finding = barn.only()
    assert finding.level == "warning" and "1 photo outside" in finding.message and "99.png" in finding.message


def test_a_photo_named_in_both_splits(barn):
    barn.rows["val"].append(("05.png", "cow"))
    barn.write()
    named, same = barn.ill()
    assert named.level == same.level == "error"
    assert "1 photo in both 'train' and 'val'" in named.message and "train/05 = val/05" in same.message


def test_photos_in_both_splits_are_measured_on_where_that_is_asked_for(barn):
    barn.rows["val"].append(("05.png", "cow"))
    barn.write()
    findings = doctor.diagnose(barn.root, DataSettings(shared_photos="measure"), workers=1)
    ill = [finding for finding in findings if finding.level in ("error", "warning")]
    assert [finding.level for finding in ill] == ["warning"] * 2 and all("by heart" in str(f) for f in ill)


def test_photos_with_none_of_the_classes_are_counted(barn):
    barn.retag(lambda number, tags: tags if number < 40 else "")
    text = doctor.render(doctor.diagnose(barn.root, workers=1))
    assert "train: 8 photos with none of the classes" in text
    photo(barn.root / "images" / "77.png", 77)
    assert "1 photo in" in doctor.render(doctor.diagnose(barn.root, workers=1))


def test_one_split_for_both(barn):
    assert "are both 'train'" in barn.ill(val_split="train")[0].message


def test_words_that_look_alike(barn):
    barn.retag(lambda number, tags: "cows" if number == 1 else tags)
    messages = [finding.message for finding in barn.ill()]
    assert any("classes 'cow', 'cows' look alike" in message for message in messages)
    barn.retag(lambda number, tags: "normal" if number < 30 else tags)
    finding = next(finding for finding in barn.ill() if "'normal' sounds as if" in finding.message)
    assert "--classes cow,cows,dog" in finding.advice or "--classes cow,dog" in finding.advice


def test_odd_pixels_are_counted(barn):
    for number, top in ((0, 1000), (2, 4000), (4, 4000)):
        deep = np.random.default_rng(number).integers(0, top, (HEIGHT, WIDTH)).astype(np.uint16)
        deep[0, 0] = top
        Image.fromarray(deep).save(barn.root / "images" / f"{number:02d}.png")
    Image.new("RGBA", (WIDTH, HEIGHT)).save(barn.root / "images" / "06.png")
    transparent, deep = barn.ill()
    assert "1 photo fully transparent: 06" in transparent.message
    assert "by the bits that they use: 1 of 10 bits, 2 of 12 bits" in deep.message and deep.level == "warning"


# ----------------------------------------------------------------------------------------------------- before a run


def test_a_survey_decodes_nothing_and_its_checks_nothing_twice(barn, monkeypatch):
    for number in range(48, 56):
        barn.mask(number, 1 if number % 2 else 2)
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
        surveyed = doctor.survey(barn.root, DataSettings())
    assert surveyed.train is not None and surveyed.val is not None and len(surveyed.train) == 48
    checked = [check for split in surveyed.datasets.values() for check in check_images(split.samples, 1)]
    monkeypatch.setattr("tag2mask.data.check.decoded", lambda *_: pytest.fail("decoded again"))
    found = [*surveyed.findings, *doctor.check_photos(surveyed, CheckedPhotos.of(map(asdict, checked)))]
    monkeypatch.undo()
    said = doctor.diagnose(barn.root, workers=1)
    assert set(said) - set(found) <= {finding for finding in said if "of disk" in finding.message}


def test_photos_are_known_by_split_and_id(barn):
    """Photos of train and val that share an id have sizes of their own."""
    photo(barn.root / "val" / "00.png", 200, height=80, width=100)
    barn.rows["val"] = [(str(barn.root / "val" / "00.png"), "cow")]
    barn.write()
    barn.mask(0, 2)
    surveyed = doctor.survey(barn.root, DataSettings())
    assert surveyed.val is not None and [sample.key for sample in surveyed.val.samples] == [("val", "00")]
    checked = [check for split in surveyed.datasets.values() for check in check_images(split.samples, 1)]
    sizes = {check.key: (check.height, check.width) for check in checked}
    assert sizes["train", "00"] == (HEIGHT, WIDTH) and sizes["val", "00"] == (80, 100)
    problems = [
        str(f) for f in doctor.check_photos(surveyed, CheckedPhotos.of(map(asdict, checked))) if f.level == "error"
    ]
    assert len(problems) == 1 and problems[0].startswith("val: truth mask") and "90x66" in problems[0]


def test_errors_stop_in_the_words_of_the_doctor(barn):
    barn.rows["val"].append(("05.png", "cow"))
    barn.write()
    findings = doctor.survey(barn.root, DataSettings()).findings
    error = next(finding for finding in findings if finding.level == "error")
    with pytest.raises(InputError) as stopped:
        doctor.refuse_errors(findings)
    assert str(stopped.value) == str(error)
    doctor.refuse_errors([finding for finding in findings if finding.level != "error"])


def test_too_little_disk(barn, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2e8})())
    finding = barn.only()
    assert finding.level == "error" and "0.2 GB are free" in finding.message


def test_render():
    text = doctor.render([Finding("error", "a", "do b"), Finding("warning", "c"), Finding("info", "d")])
    assert text.splitlines() == ["error    a", "         -> do b", "warning  c", "info     d", "1 error, 1 warning"]


def test_nothing_is_changed(barn):
    before = {path: path.stat().st_mtime_ns for path in barn.root.rglob("*")}
    doctor.diagnose(barn.root, workers=1)
    assert {path: path.stat().st_mtime_ns for path in barn.root.rglob("*")} == before
