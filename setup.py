"""Builds the C kernels of csrc/; without a C compiler npdp installs all the same and computes with NumPy."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


class OptionalKernels(build_ext):
    """A build that a missing or failing compiler does not stop; npdp warns at run time."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for extension in self.extensions or []:
            extension.optional = True

    def build_extension(self, extension: Extension) -> None:
        """Try again without AMX: an assembler may be older than its compiler and not know the instructions."""
        try:
            super().build_extension(extension)
        except CompileError:
            extension.define_macros.append(("NPDP_WITHOUT_AMX", None))
            super().build_extension(extension)


setup(cffi_modules=["npdp/kernels/_build.py:ffibuilder"], cmdclass={"build_ext": OptionalKernels})
