#!/bin/sh
# The whole answer at once, then the same as server-sent events: generate.sh [URL [PROMPT]], curl alone.
# A prompt goes into JSON as it is here: escape quotes and backslashes in yours.
set -eu
url=${1:-http://127.0.0.1:8000}
prompt=${2-In the beginning}

# An error has a status other than 200 and a body {"error": "..."}: --fail-with-body prints it and exits with 22.
curl -sS --fail-with-body "$url/v2/models/flover/generate" \
  -d "{\"text_input\": \"$prompt\", \"max_tokens\": 40, \"temperature\": 0, \"exclude_input_in_output\": true}"
echo

# stop as a list, and all that is no plain value, goes inside sampling_parameters. -N shows events as they come.
curl -sSN --fail-with-body "$url/v2/models/flover/generate_stream" \
  -d "{\"text_input\": \"$prompt\", \"stream\": true, \"return_finish_reason\": true,
       \"sampling_parameters\": \"{\\\"max_tokens\\\": 40, \\\"temperature\\\": 0, \\\"stop\\\": [\\\"\\\\n\\\\n\\\"]}\"}"
