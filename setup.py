"""Packaging of hbi_jax: `pip install .`; extras: cuda12, cuda13, tpu, plan, caption, search, demo, dev."""

import pathlib
import re
import runpy

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The requirement lines of a file beside this one, without comments and includes."""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def or_newer(pins: list[str]) -> list[str]:
    """The oldest tested version of each package as its lower bound; `pip install -c requirements.txt .` keeps the pins.

    Where Python versions have pins of their own, the oldest comes first.
    """
    bounds = {}
    for pin in pins:
        bounds.setdefault(re.match(r"[\w-]+", pin)[0], pin.split(";")[0].strip().replace("==", ">="))
    return list(bounds.values())


setup(
    name="hbi_jax",
    version=runpy.run_path(str(HERE / "hbi_jax" / "version.py"))["__version__"],
    description="Video-text alignment by cooperative games: HBI, HBI V2 and HCMI in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # Those that CI runs, see launch/environment.py.
    python_requires=">=3.11,<3.14",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)],
    packages=[*find_packages(include=["hbi_jax", "hbi_jax.*"]), "hbi_jax.configs"],
    # For --config=NAME where nothing is cloned.
    package_dir={"hbi_jax.configs": "configs"},
    package_data={"hbi_jax.data": ["assets/*"], "hbi_jax.pretrained": ["assets/*"]},
    install_requires=or_newer(requirements("requirements.txt")),
    extras_require={
        # The plugins that belong to the JAX which is installed: JAX names their versions.
        "cuda": ["jax[cuda12]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        # The compiler of TPUs, for `python -m hbi_jax.plan` on a machine without one.
        "plan": ["jax[tpu]"],
        # Scores of captions; METEOR among them needs Java as well.
        "caption": ["pycocoevalcap==1.2"],
        # Indexes of 100,000 clips and more; LanceDB changes its files between versions.
        "search": ["lancedb==0.40.0"],
        # The page of `python -m hbi_jax.search serve`.
        "demo": ["gradio==6.31.0"],
        "dev": requirements("requirements-dev.txt"),
    },
    entry_points={"console_scripts": ["hbi-jax = hbi_jax.main:run"]},
)
