#!/bin/sh
# publish.sh BOARD: append the JSON text of stdin to BOARD as one line, once for each effect token.
#
# A step may be run again when the controller died before it could write down that the step was done. The effect token
# is the same then: the line that has it is already there, and nothing is appended.
set -eu
board=$1
notice=$(cat)
exec 9>>"$board.lock"
flock 9
if ! grep -qsF "[$BATON_EFFECT_TOKEN] " "$board"; then
    printf '[%s] %s\n' "$BATON_EFFECT_TOKEN" "$notice" >>"$board"
fi
printf '{"line": %s}\n' "$(grep -nF "[$BATON_EFFECT_TOKEN] " "$board" | head -n 1 | cut -d: -f1)"
