"""Packaging of hbi_jax: `pip install .`; extras: `cuda`, `tpu`, `dev`."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The requirement lines of a file beside this one, without comments and includes."""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


setup(
    name="hbi_jax",
    version="0.1.0",
    description="Video-text alignment by cooperative games: HBI, HBI V2 and HCMI in JAX",
    long_description=(HERE / "README.md").read_text(),
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
        "dev": requirements("requirements-dev.txt"),
    },
)
