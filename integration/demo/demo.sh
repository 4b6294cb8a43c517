#!/bin/sh
# The demonstration, wherever it runs: brings the image, runs the task, shows how it ended.
# Wants: berth in PATH, $1 the image's archive, $2 the task definition.
echo "\$ berth image import --name berth-demo rootfs.tar"
berth image import --name berth-demo "$1" || exit 1
echo "\$ berth run task.json"
berth run "$2"
code=$?
echo "(exit code $code: that of the essential container)"
echo "\$ berth ps --all"
berth ps --all
[ "$code" = 7 ]
