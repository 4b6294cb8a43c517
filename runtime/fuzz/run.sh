#!/bin/sh
# Fuzzes one target with the compiler that builds everything else: no nightly, no cargo-fuzz.
#
#   runtime/fuzz/run.sh configuration|seccomp|state [libFuzzer's options]
#
# What is found on the way goes to fuzz/found/TARGET, which is not kept; fuzz/minimize.sh brings what is
# new of it into the corpus.
set -eu
cd "$(dirname "$0")"
target=$1
shift
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags="$flags -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares"
flags="$flags -Ccodegen-units=1 --cfg fuzzing"
RUSTFLAGS="$flags" cargo build --release --quiet --bin "$target"
mkdir -p "found/$target" "corpus/$target"
exec "target/x86_64-unknown-linux-gnu/release/$target" "found/$target" "corpus/$target" \
    "-artifact_prefix=found/$target-" "$@"
