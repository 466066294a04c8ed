#!/bin/sh
# For each change before it is merged: is every host file valid, and what would each machine do?
#
# Exit 0: all valid, and every machine could do it. 1: a file is wrong, a machine refuses part of it, or does
# not answer. That a machine would change is no failure: `lmx plan` says so with 2.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0

for file in hosts/*.yaml; do
    lmx validate -f "$file" || failed=1
done
[ "$failed" = 0 ] || exit 1

sed -n 's/^  \([A-Za-z0-9._-]*\): *\(http[^ ]*\)$/\1 \2/p' fleet.yaml | {
    while read -r host url; do
        echo "== $host"
        lmx plan -f "hosts/$host.yaml" --against "$url" < /dev/null
        case $? in 0 | 2) ;; *) failed=1 ;; esac
    done
    exit "$failed"
}
