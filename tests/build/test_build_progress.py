"""Reading Ninja's output and estimating the time left: under 1 s."""

from kernelpkg.build.progress import (
    NinjaReader,
    Step,
    TimeLeft,
    disk_full,
    dry_run_outputs,
    failure_sentence,
    ninja_log_seconds,
    out_of_memory,
)

DRY_RUN = """[1/4] Building CUDA object CMakeFiles/marlin_fp8.dir/generated/instances/a.cu.o
[2/4] Building CXX object CMakeFiles/host.dir/marlin/h.cpp.o
[3/4] Building CUDA object CMakeFiles/x.dir/b.cu.o
[4/4] Linking CXX shared module libkernelpkg_ops.so
"""


def test_dry_run():
    outputs, links = dry_run_outputs(DRY_RUN)
    assert outputs == [
        "CMakeFiles/marlin_fp8.dir/generated/instances/a.cu.o",
        "CMakeFiles/host.dir/marlin/h.cpp.o",
        "CMakeFiles/x.dir/b.cu.o",
    ]
    assert links
    assert dry_run_outputs("ninja: no work to do.\n") == ([], False)


def test_steps():
    reader = NinjaReader()
    assert reader.feed("[2/9] Building CUDA object x/a.cu.o\n") is None  # it may still say FAILED
    assert reader.feed("a.cu(3): warning: unused") == Step(2, 9, "x/a.cu.o", False)
    assert reader.feed("[9/9] Linking CXX shared module libkernelpkg_ops.so") is None
    assert reader.feed(None) == Step(9, 9, "libkernelpkg_ops.so", True)
    assert reader.feed(None) is None
    assert reader.noise == ["a.cu(3): warning: unused"]
    assert not reader.failed


def test_a_failed_step_is_not_reported_as_finished():
    reader = NinjaReader()
    lines = ["[1/3] Building CXX object a.o", "[2/3] Building CXX object b.o", "FAILED: b.o ", "g++ b", None]
    assert [step.output for line in lines if (step := reader.feed(line))] == ["a.o"]
    assert reader.failed == ["b.o"]


def test_failure_keeps_the_words_of_the_failed_command_only():
    reader = NinjaReader()
    for line in (
        "[1/3] Building CXX object x/ok.cpp.o",
        "ok.cpp:1: warning: nothing",
        "FAILED: [code=2] x/bad.cu.o ",
        "/usr/bin/nvcc -Werror -c bad.cu -o x/bad.cu.o",
        'bad.cu(7): error: identifier "y" is undefined',
        "[2/3] Building CXX object x/late.cpp.o",
        "late.cpp:1: warning: nothing",
        "ninja: build stopped: subcommand failed.",
    ):
        reader.feed(line)
    assert reader.failed == ["x/bad.cu.o"]
    assert len(reader.log) == 2
    sentence = failure_sentence("bad.cu", "12.0f", "\n".join(reader.log))
    assert sentence == 'Compiling bad.cu for 12.0f failed: bad.cu(7): error: identifier "y" is undefined'


def test_failures_of_the_machine():
    assert out_of_memory("nvcc error   : 'cicc' died due to signal 9 (Kill signal)")
    assert out_of_memory("g++: fatal error: Killed signal terminated program cc1plus")
    assert not out_of_memory("bad.cu(7): error: expected a ;")
    assert disk_full("fatal error: error writing to /tmp/x.s: No space left on device")


def test_ninja_log(tmp_path):
    log = tmp_path / ".ninja_log"
    log.write_text(
        "# ninja log v6\n100\t2600\t17\tx/a.cu.o\tabc\n0\t500\t17\tx/b.o\td\n0\t9000\t18\tx/a.cu.o\te\n"
    )
    assert ninja_log_seconds(log) == {"x/a.cu.o": 9.0, "x/b.o": 0.5}
    assert ninja_log_seconds(tmp_path / "none") == {}


def test_time_left_uses_earlier_times_and_scales_guesses():
    left = TimeLeft({"a": 10, "b": 10, "c": 10}, {"c": 40}, jobs=2, tail_seconds=0)
    assert left.seconds() == 40  # the longest file bounds it
    left.finished("c", 41)
    assert left.seconds() == 10
    left.finished("a", 30)  # guesses were three times too small
    assert left.seconds() == 30
    assert left.seconds([("b", 12)]) == 18
    assert left.seconds([("b", 500)]) == 1
    left.finished("b", None)
    assert left.seconds() == 0
