import pytest

from hbi_jax.data.datasets import DataError, Record
from hbi_jax.data.datasets.videos import VideoFiles, list_videos


@pytest.fixture
def folder(tmp_path):
    videos = tmp_path / "videos"
    (videos / "film").mkdir(parents=True)
    (videos / "other").mkdir()
    for name in ("a.avi", "a.mp4", "film/b.wmv", "film/c.MOV.mp4", "film/twin.mp4", "other/twin.3gp", "notes.txt"):
        (videos / name).touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mp4").touch()
    (videos / "away").symlink_to(tmp_path / "outside")
    (videos / "circle").symlink_to(videos)
    (videos / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    return videos


def test_video_files_are_listed_by_ending_and_not_through_links_to_folders(folder):
    names = ["a.mp4", "film/c.MOV.mp4", "film/twin.mp4", "link.mp4", "a.avi", "other/twin.3gp", "film/b.wmv"]
    assert [path.relative_to(folder).as_posix() for path in list_videos(folder)] == names
    assert [path.name for path in list_videos(folder, recursive=False)] == ["a.mp4", "link.mp4", "a.avi"]


@pytest.mark.parametrize(
    ("video_id", "file"),
    [
        ("a", "a.mp4"),
        ("a.avi", "a.avi"),
        ("a.mkv", "a.mp4"),
        ("film/b", "film/b.wmv"),
        ("b", "film/b.wmv"),
        ("b.mpg", "film/b.wmv"),
        ("c", "film/c.MOV.mp4"),
        ("c.MOV", "film/c.MOV.mp4"),
        ("other/twin", "other/twin.3gp"),
        ("link", "link.mp4"),
        ("none", "none.mp4"),
        ("film/none.avi", "film/none.avi"),
    ],
)
def test_an_id_may_be_a_path_or_a_name_with_or_without_ending(folder, video_id, file):
    files = VideoFiles(folder, recursive=True)
    assert files.find(video_id, "list.csv, line 2") == folder / file


def test_without_folders_below_only_names_are_ids(folder):
    files = VideoFiles(folder)
    assert files.find("b", "list.csv") == folder / "b.mp4"
    with pytest.raises(DataError, match="got 'film/b', wanted a plain file name"):
        files.find("film/b", "list.csv")


@pytest.mark.parametrize(
    "video_id", ["", ".", "..", "../outside/secret", "film/../../x", "/etc/x", "film//b", "a\\b", "a\0"]
)
def test_no_id_leads_out_of_the_folder(folder, video_id):
    for recursive in (False, True):
        with pytest.raises(DataError, match=r"list\.csv, line 2, video_id: got "):
            VideoFiles(folder, recursive=recursive).find(video_id, "list.csv, line 2")


@pytest.mark.parametrize("video_id", ["away/secret", "away/secret.mp4", "circle/a"])
def test_no_link_leads_out_of_the_folder_either(folder, video_id):
    files = VideoFiles(folder, recursive=True)
    records = [
        Record("a text", name, files.find(name, "list.csv"), source="list.csv") for name in ("a", "gone", video_id)
    ]
    files.check(records[:2])
    with pytest.raises(DataError, match=r"list\.csv, video_id: got .*, through a link, wanted a file below the folder"):
        files.check(records)


def test_a_name_that_several_folders_have_needs_its_folder(folder):
    with pytest.raises(
        DataError, match=r"got .*film/twin\.mp4 and .*other/twin\.3gp, wanted one file; write the id with"
    ):
        VideoFiles(folder, recursive=True).find("twin", "list.csv")
