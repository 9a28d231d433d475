#!/bin/sh
# unpack.sh FROM TO - put tokenizer.json (unpacked) and tokenizer_config.json of FROM into the folder TO. Does nothing
# if TO is up to date; a reader never sees half a file.
set -eu
from=$1 to=$2
mkdir -p "$to"
if [ ! -f "$to/tokenizer.json" ] || [ "$from/tokenizer.json.gz" -nt "$to/tokenizer.json" ]; then
    gzip -dc "$from/tokenizer.json.gz" >"$to/tokenizer.json.$$"
    mv "$to/tokenizer.json.$$" "$to/tokenizer.json"
fi
cp "$from/tokenizer_config.json" "$to/tokenizer_config.json.$$"
mv "$to/tokenizer_config.json.$$" "$to/tokenizer_config.json"
