import pickle

import pytest

from hbi_jax.data.datasets import DataError, load_split

CAPTIONS = {
    "v-0": [["a", "man", "cuts"], ["cutting"]],
    "v1_2_3": [["a", "dog"], ["dog", "runs"], ["it", "runs"]],
    "v2": [["zwölf"]],
    "v3": [["a", "cat"]],
    "unlisted": "not looked at",
}


@pytest.fixture
def data(folders):
    """Three train videos, one of them for validation too, and one of the test split without a file."""
    lists = {"train_list.txt": "v1_2_3\nv-0\nv3\n", "val_list.txt": "v3\n", "test_list.txt": "v2\r\n\r\nv-0"}
    annotations = {**lists, "raw-captions.pkl": pickle.dumps(CAPTIONS, protocol=2)}
    return folders(annotations, ("v-0.avi", "v1_2_3.avi", "v3.mp4"))


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_every_caption_is_a_record_in_every_split(data):
    train = load_split("msvd", "train", **data)
    assert _pairs(train) == [
        ("v1_2_3", "a dog"),
        ("v1_2_3", "dog runs"),
        ("v1_2_3", "it runs"),
        ("v-0", "a man cuts"),
        ("v-0", "cutting"),
        ("v3", "a cat"),
    ]
    assert [video.path.name for video in train.videos] == ["v1_2_3.avi", "v-0.avi", "v3.mp4"]
    test = load_split("msvd", "test", **data)
    assert _pairs(test) == [("v2", "zwölf"), ("v-0", "a man cuts"), ("v-0", "cutting")]
    assert test.video_index.tolist() == [0, 1, 1]
    assert not test.records[0].path.exists()


def test_validation_has_its_list_or_the_end_of_the_train_list(data):
    for options in ({"val_list": "val_list.txt"}, {"num_val_videos": 1}):
        assert _pairs(load_split("msvd", "val", **options, **data)) == [("v3", "a cat")]
        train = load_split("msvd", "train", **options, **data)
        assert [video.video_id for video in train.videos] == ["v1_2_3", "v-0"]
    with pytest.raises(DataError, match="num_val_videos: got 0, wanted a val_list, or a number below the 3 videos"):
        load_split("msvd", "val", **data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickles_is_read(data, protocol):
    wanted = load_split("msvd", "train", **data)
    (data["annotations"] / "raw-captions.pkl").write_bytes(pickle.dumps(CAPTIONS, protocol))
    assert load_split("msvd", "train", **data) == wanted


PICKLE, LIST = "raw-captions.pkl", "test_list.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LIST, "v2\nv2\n", r"test_list\.txt: got 'v2' 2 times, wanted each video once"),
        (LIST, "", "got no records"),
        (LIST, b"\xff\n", "bytes that are not UTF-8"),
        (LIST, "v7\n", r"raw-captions\.pkl, 'v7': got None, wanted a list of captions for each listed video"),
        (LIST, "../v2\n", r"'\.\./v2': got None"),
        (PICKLE, [], r"raw-captions\.pkl: got a list, wanted a dict with a key for each video"),
        (PICKLE, {"v2": []}, r"'v2': got \[\], wanted a list of captions"),
        (PICKLE, {"v2": "text"}, "'v2': got 'text', wanted a list of captions"),
        (PICKLE, {"v2": ["text"]}, r"'v2', \[0\]: got 'text', wanted a list of words"),
        (PICKLE, {"v2": [["a"], [1]]}, r"'v2', \[1\]: got \[1\], wanted a list of words"),
        (PICKLE, {"v2": [["a"], []], "v-0": [["a"]]}, r"'v2', \[1\] .*: got an empty caption"),
        (PICKLE, b"", "another or damaged pickle"),
    ],
)
def test_malformed_annotations_are_named(data, name, content, message):
    (data["annotations"] / name).write_bytes(
        content if isinstance(content, bytes) else content.encode() if name == LIST else pickle.dumps(content)
    )
    with pytest.raises(DataError, match=message):
        load_split("msvd", "test", **data)


@pytest.mark.parametrize("video_id", ["../v2", "/etc/passwd", "..", "a\0", "a" * 300])
def test_an_id_is_a_plain_file_name(data, video_id):
    (data["annotations"] / LIST).write_text(video_id)
    (data["annotations"] / PICKLE).write_bytes(pickle.dumps({video_id: [["a"]]}))
    with pytest.raises(DataError, match="wanted a plain file name; correct the id"):
        load_split("msvd", "test", **data)
