# curl with the URL alone and with the key: each dialect, whole and streamed. Keeps the answers as they are, one in a line.
set -e
ask() { curl --silent --show-error --fail-with-body --no-buffer "$OPENAI_BASE_URL/$1" -H "Content-Type: application/json" "${@:3}" -d "$2" | tr '\n' ' ' >> "$SAID"; echo >> "$SAID"; }
user='[{"role": "user", "content": "Name a city of France."}]'
for stream in false true; do
  ask chat/completions "{\"model\": \"m\", \"messages\": $user, \"max_tokens\": 12, \"n\": 2, \"stream\": $stream}"
  ask completions "{\"model\": \"m\", \"prompt\": \"Once\", \"max_tokens\": 12, \"stream\": $stream}" -H "Authorization: Bearer $OPENAI_API_KEY"
  ask messages "{\"model\": \"m\", \"messages\": $user, \"max_tokens\": 12, \"stream\": $stream}" -H "x-api-key: $ANTHROPIC_API_KEY"
  ask responses "{\"model\": \"m\", \"input\": \"Name a city.\", \"max_output_tokens\": 12, \"stream\": $stream}"
done
echo 1
