"""The packages: configs/ and sweeps/, which lie beside pgdlab in a checkout, are inside it in a wheel."""

from setuptools import find_packages, setup

BESIDE = {"pgdlab.configs": "configs", "pgdlab.sweeps": "sweeps"}

setup(packages=[*find_packages(include=["pgdlab", "pgdlab.*"]), *BESIDE], package_dir=BESIDE)
