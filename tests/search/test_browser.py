"""The page of results in a browser, where Chromium is installed: frames seek, narrow windows fit, errors show."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from hbi_jax.search.moments import Moment
from hbi_jax.search.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=360,800", "--virtual-time-budget=8000"),
)
# Tries the page as a person does, and leaves what it saw in the document.
TRIAL = """
<script>
addEventListener('load', async () => {
  const seen = {fits: document.documentElement.scrollWidth <= innerWidth};
  const video = document.querySelector('video'), frames = [...document.querySelectorAll('.card:first-of-type a.frame')];
  const until = name => new Promise(done => {
    video.addEventListener(name, done, {once: true});
    setTimeout(done, 1500);
  });
  if (video.readyState < 1) await until('loadedmetadata');
  frames[1].focus();
  seen.focused = document.activeElement === frames[1];
  frames[1].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}));
  if (video.seeking) await until('seeked');
  video.pause();
  seen.time = video.currentTime;
  seen.wanted = Number(frames[1].dataset.time);
  seen.stayed = location.hash === '';
  seen.unplayable = [...document.querySelectorAll('.unplayable')].map(note => !note.hidden);
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>
"""


def test_the_page_works(rendered, tmp_path):
    words, times = ("red", "ball"), (0.0, 1.125, 2.25)
    values = np.array([[0.1, -0.2, 0.4], [0.0, 0.1, 0.2]], np.float32)
    file = tmp_path / "result.html"
    there = str(min(rendered.glob("video*.mp4")))
    changed = tmp_path / "changed.mp4"
    shutil.copy(there, changed)
    videos = [there, str(tmp_path / "gone.mp4"), str(changed)]
    write_page(file, "a query", [Moment(path, 0.0, 3.0, 0.5, words, times, values) for path in videos], 10)
    # A file that a browser cannot play.
    changed.write_bytes(b"no video")
    file.write_text(file.read_text().replace("</body>", f"{TRIAL}</body>"))
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-2000:]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert abs(seen.pop("time") - seen.pop("wanted")) < 0.2
    assert seen == {"fits": True, "focused": True, "stayed": True, "unplayable": [False, True]}
