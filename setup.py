"""Packaging of hbi_jax: `pip install .`; extras: `cuda`, `tpu`, `caption`, `dev`."""

import pathlib
import runpy

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The requirement lines of a file beside this one, without comments and includes."""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


setup(
    name="hbi_jax",
    version=runpy.run_path(str(HERE / "hbi_jax" / "version.py"))["__version__"],
    description="Video-text alignment by cooperative games: HBI, HBI V2 and HCMI in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["hbi_jax", "hbi_jax.*"]),
    package_data={"hbi_jax.data": ["assets/*"]},
    install_requires=requirements("requirements.txt"),
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        # Scores of captions; METEOR among them needs Java as well.
        "caption": ["pycocoevalcap==1.2"],
        "dev": requirements("requirements-dev.txt"),
    },
    entry_points={"console_scripts": ["hbi-jax = hbi_jax.main:run"]},
)
