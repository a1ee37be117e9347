import pytest

from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.datasets.lsmdc import DAMAGED

TRAIN, VAL, TEST = "LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv"


def _row(clip, sentence):
    return "\t".join((clip, "00.00.01.000", "00.00.02.000", "00.00.00.900", "00.00.02.100", sentence)) + "\n"


ONE, TWO, OTHER = "1_A_00.00.01.000-00.00.02.000", "1_A_00.00.05.000-00.00.06.500", "2_B_00.01.00.000-00.01.02.000"


@pytest.fixture
def data(folders):
    """Three clips of two movies, one of them with two sentences; a damaged one; and one that has no file."""
    annotations = {
        TRAIN: _row(ONE, 'SOMEONE says "no".')
        + _row(OTHER, "He,\u2028runs.")
        + _row(DAMAGED[0], "He plays.")
        + _row(ONE, "SOMEONE nods."),
        VAL: _row(TWO, "She leaves."),
        TEST: _row(TWO, "She goes.") + _row("3_C_00.00.00.000-00.00.01.000", "Rain."),
    }
    files = (f"1_A/{ONE}.avi", f"1_A/{TWO}.mp4", f"2_B/{OTHER}.avi", f"2_B/{DAMAGED[0]}.avi")
    return folders(annotations, files)


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_a_row_is_a_record_and_damaged_clips_are_left_out(data):
    train = load_split("lsmdc", "train", **data)
    assert _pairs(train) == [(ONE, 'SOMEONE says "no".'), (OTHER, "He,\u2028runs."), (ONE, "SOMEONE nods.")]
    assert train.video_index.tolist() == [0, 1, 0]
    assert train.records[0].source.endswith(f"{TRAIN}, line 1")
    assert (train.records[0].start, train.records[0].end) == (None, None)
    assert DAMAGED[0] in {record.video_id for record in load_split("lsmdc", "train", damaged=(), **data).records}


def test_files_are_found_in_the_folders_of_the_movies(data):
    train, test = (load_split("lsmdc", split, **data) for split in ("train", "test"))
    assert [video.path.relative_to(data["videos"]).as_posix() for video in train.videos] == [
        f"1_A/{ONE}.avi",
        f"2_B/{OTHER}.avi",
    ]
    assert [video.path.exists() for video in test.videos] == [True, False]


def test_val_has_its_table_or_the_last_clips(data):
    assert _pairs(load_split("lsmdc", "val", val_list=VAL, **data)) == [(TWO, "She leaves.")]
    options = {"num_val_videos": 1, "damaged": (), **data}
    assert _pairs(load_split("lsmdc", "val", **options)) == [(DAMAGED[0], "He plays.")]
    assert _pairs(load_split("lsmdc", "train", **options)) == [
        (ONE, 'SOMEONE says "no".'),
        (OTHER, "He,\u2028runs."),
        (ONE, "SOMEONE nods."),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("CLIP_ID\tSENTENCE\n", r"line 1: got 2 columns \(tab-separated\), wanted 6"),
        (_row(TWO, "a") + "\n" + _row(TWO, "a\tb"), "line 3: got 7 columns"),
        (_row(TWO, "").rstrip("\n"), "line 1: got 5 columns"),
        (_row(TWO, "&nbsp;"), "line 1 .*: got an empty caption"),
        (_row("../" + TWO, "a"), r"line 1, video_id: got '\.\./.*, wanted a path within the folder of the videos"),
        (_row("/etc/passwd", "a"), "line 1, video_id: got '/etc/passwd', wanted a path within"),
        (_row("a\0b", "a"), "line 1, video_id: got .*, wanted a path within"),
        (_row("none", "a"), "none of the split's videos"),
        ("", "got no records"),
        (b"\xff", "bytes that are not UTF-8"),
    ],
)
def test_malformed_tables_are_named(data, content, message):
    (data["annotations"] / TEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_split("lsmdc", "test", **data)


def test_a_clip_of_two_movies_is_named(data):
    (data["videos"] / "2_B" / f"{TWO}.avi").touch()
    with pytest.raises(DataError, match=r"1_A/.* and .*2_B/.*, wanted one file; write the id with its folder"):
        load_split("lsmdc", "test", **data)
