#!/bin/sh
# Makes a target's corpus anew: of what was kept and what has been found, files that reach all that they
# reach together; of these the largest, which reach most, so that a few hundred kilobytes do. What has a
# name stays as it is.
#
#   runtime/fuzz/minimize.sh configuration|seccomp|state [the largest file, in bytes]
set -eu
cd "$(dirname "$0")"
target=$1
longest=${2:-2048}
binary="target/x86_64-unknown-linux-gnu/release/$target"
new=$(mktemp -d)
# By features it would be thousands of files: by edges alone.
"$binary" -set_cover_merge=1 -max_len="$longest" -use_counters=0 "$new" "corpus/$target" "found/$target"
find "corpus/$target" -type f -name '[0-9a-f]*' -regex '.*/[0-9a-f]*' -delete
find "$new" -type f -printf '%s %p\n' | sort -rn | head -n 150 | cut -d ' ' -f 2 |
    xargs cp -n -t "corpus/$target/"
rm -r "$new"
du -sh "corpus/$target"
