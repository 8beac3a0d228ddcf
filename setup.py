"""Builds the C kernels of csrc/; without a C compiler npdp installs all the same and computes with NumPy."""

from setuptools import setup
from setuptools.command.build_ext import build_ext


class OptionalKernels(build_ext):
    """A build that a missing or failing compiler does not stop; npdp warns at run time."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for extension in self.extensions or []:
            extension.optional = True


setup(cffi_modules=["npdp/kernels/_build.py:ffibuilder"], cmdclass={"build_ext": OptionalKernels})
