"""Says what keeps this Python from being used: `check_python.py "3.11 3.12" 2.28`; prints nothing if nothing does.

It is read by Pythons of any age, so it uses nothing new.
"""

import platform
import struct
import sys
import sysconfig


def problem(pythons, glibc):
    """Why this Python cannot be used, in words; empty if it can.

    Args:
        pythons: the versions that there are wheels for.
        glibc: the oldest version of the C library that the wheels run on, as numbers.
    """
    version = ".".join(str(number) for number in sys.version_info[:2])
    library, found = platform.libc_ver()
    if version not in pythons:
        return "is Python " + version
    if platform.python_implementation() != "CPython":
        return "is " + platform.python_implementation()
    if struct.calcsize("P") != 8:
        return "is a 32-bit program; a 64-bit one is needed"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "is a free-threaded build"
    if library != "glibc":
        return "does not run on glibc (" + (library or "another C library") + ")"
    if [int(number) for number in found.split(".")[:2]] < glibc:
        return "runs on glibc " + found + "; the wheels need " + ".".join(str(number) for number in glibc)
    try:
        import ensurepip  # noqa: F401  Debian's Python is without it
        import venv  # noqa: F401
    except ImportError:
        return "has no venv (on Debian and Ubuntu: apt install python" + version + "-venv)"
    return ""


if __name__ == "__main__":
    print(problem(sys.argv[1].split(), [int(number) for number in sys.argv[2].split(".")]))
