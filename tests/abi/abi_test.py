#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""libmoult as others get it: installed into a folder, found by pkg-config and by CMake, linked shared and static; its
headers on their own; and what it exports against what header and version script say."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parents[2]
HOST = REPO / "host-lib"
HEADERS = sorted((HOST / "include/moult").glob("*.h"))
MINIMAL = HOST / "examples/minimal.c"
# What a VMM must have besides libc: the C++ run time and Abseil's shared libraries.
ALLOWED_LIBRARIES = re.compile(r"^(lib(c|m|stdc\+\+|gcc_s|absl_\w+)\.so\.\S+|ld-linux-x86-64\.so\.2)$")
CASES = []


class Failure(Exception):
    pass


def case(function):
    CASES.append(function)
    return function


def expect(condition, text):
    if not condition:
        raise Failure(text)


def run(*argv, env=None, stdin=None):
    done = subprocess.run([os.fspath(a) for a in argv], input=stdin, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, **(env or {})})
    expect(done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


class Installed:
    """The component host-lib in a folder that is not the configured prefix, and moved after that."""

    def __init__(self, build, work):
        self.work = work
        run("cmake", "--install", build, "--component", "host-lib", "--prefix", work / "first")
        self.prefix = work / "moved"
        (work / "first").rename(self.prefix)
        self.lib = next(self.prefix.rglob("libmoult.so")).parent
        self.env = {"PKG_CONFIG_PATH": str(self.lib / "pkgconfig"), "LD_LIBRARY_PATH": str(self.lib)}

    def flags(self, *words):
        return run("pkg-config", *words, "moult", env=self.env).split()

    def works(self, program):
        """It has found the library, which tells it what is wrong: nobody listens there."""
        done = subprocess.run([program, self.work / "no-socket", self.work / f"store-{program.name}", "/bin/true"], capture_output=True,
                              text=True, timeout=60, check=False, env={**os.environ, **self.env})
        expect(done.returncode == 1 and "UNAVAILABLE: connect to the agent at" in done.stderr, f"exit {done.returncode}: {done.stderr}")


def declared():
    text = "".join(header.read_text(encoding="utf-8") for header in HEADERS)
    return set(re.findall(r"^MOULT_API[^;]*?\b(moult_\w+)\(", text, re.MULTILINE))


@case
def headers_compile_alone(_):
    options = {"moult.h": "moult_vm_options", "pages.h": "moult_pages_options", "pager.h": "moult_offload_options",
               "pool.h": "moult_pool_options", "store.h": "moult_store_options", "policy.h": "moult_policy_options"}
    for header in HEADERS:
        compiles(f"#include <moult/{header.name}>\nint main(void) {{ struct {options[header.name]} o = MOULT_INIT(o); return o.size == 0; }}\n")


def compiles(source):
    common = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only", f"-I{HOST / 'include'}", "-"]
    for compiler in ("gcc", "clang"):
        for standard in ("c99", "c11", "c17"):
            run(compiler, "-x", "c", f"-std={standard}", *common, stdin=source)
        for standard in ("c++11", "c++17", "c++20"):
            run(compiler, "-x", "c++", f"-std={standard}", *common, stdin=source)


@case
def headers_and_version_script_name_the_same(_):
    script = (HOST / "moult.map").read_text(encoding="utf-8")
    mapped = set(re.findall(r"^\s+(moult_\w+);", script, re.MULTILINE))
    expect(mapped == declared(), f"only one of moult.map and the headers has: {sorted(mapped ^ declared())}")


@case
def library_exports_what_is_declared(installed):
    symbols = run("nm", "-D", "--defined-only", installed.lib / "libmoult.so").splitlines()
    names = {line.split()[2] for line in symbols if line.split()[1] != "A"}
    versions = {name.partition("@@")[2] for name in names}
    expect(versions == {"MOULT_0.1"}, f"versions of symbols: {versions}")
    exported = {name.partition("@@")[0] for name in names}
    expect(exported == declared(), f"exported and declared differ by {sorted(exported ^ declared())}")


@case
def library_needs_little(installed):
    dynamic = run("readelf", "-d", installed.lib / "libmoult.so")
    expect("Library soname: [libmoult.so.0]" in dynamic, "soname")
    strange = [n for n in re.findall(r"Shared library: \[(.*?)\]", dynamic) if not ALLOWED_LIBRARIES.match(n)]
    expect(not strange, f"it needs {strange}")
    expect("RUNPATH" not in dynamic and "RPATH" not in dynamic, "it has a run path")
    expect("GNU_STACK" in (load := run("readelf", "-lW", installed.lib / "libmoult.so")) and "RWE" not in load, "executable stack")


@case
def pkg_config_finds_it(installed):
    program = installed.work / "by-pkg-config"
    run("gcc", "-std=c11", "-Wall", "-Werror", MINIMAL, "-o", program, *installed.flags("--cflags", "--libs"))
    installed.works(program)


@case
def pkg_config_links_it_statically(installed):
    program = installed.work / "static"
    run("gcc", "-std=c11", "-static", MINIMAL, "-o", program, *installed.flags("--static", "--cflags", "--libs"))
    expect("no dynamic section" in run("readelf", "-d", program), "it is not static")
    installed.works(program)


@case
def cmake_finds_it(installed):
    build = installed.work / "by-cmake"
    run("cmake", "-S", REPO / "tests/abi/consumer", "-B", build, f"-DCMAKE_PREFIX_PATH={installed.prefix}", f"-DMINIMAL={MINIMAL}")
    run("cmake", "--build", build)
    installed.works(build / "minimal")


@case
def cmake_refuses_another_version(installed):
    script = f'find_package(moult 0.2 QUIET CONFIG PATHS {installed.prefix} NO_DEFAULT_PATH)\nif(moult_FOUND)\n  message(FATAL_ERROR found)\nendif()\n'
    (installed.work / "other.cmake").write_text(script, encoding="utf-8")
    run("cmake", "-P", installed.work / "other.cmake")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=pathlib.Path, help="the build folder")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moult-abi-") as work:
        installed = Installed(options.build.resolve(), pathlib.Path(work))
        for function in CASES:
            try:
                function(installed)
                print(f"ok {function.__name__}", flush=True)
            except (Failure, OSError, subprocess.SubprocessError) as e:
                failed += 1
                print(f"FAIL {function.__name__}: {e}", flush=True)
    print(f"{len(CASES) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
