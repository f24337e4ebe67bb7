#!/usr/bin/env bash
# scripts/fuzz.sh [RUNS | SECONDSs] [TARGET...]: every fuzz target of protocol/{wire,link,websocket}/fuzz and gateway/fuzz, or those named, for so many runs
# (default 1000000) or, with an s behind the number, for so many seconds each. Installs cargo-fuzz into target/tools when it is missing, and says so.
#
# Works on the stable compiler: RUSTC_BOOTSTRAP opens the coverage flags, and without unsafe code there is nothing for a sanitizer to find.
# New inputs go to */fuzz/corpus, which is not committed; the seeds are.
set -euo pipefail
cd "$(dirname "$0")/.."
amount=${1:-1000000}
[ $# -eq 0 ] || shift
case $amount in
  *[!0-9s]* | '' | s) echo "usage: scripts/fuzz.sh [RUNS | SECONDSs] [TARGET...]" >&2; exit 2 ;;
  *s) limit=-max_total_time=${amount%s} ;;
  *) limit=-runs=$amount ;;
esac
[ $# -gt 0 ] || set -- frame body_json body_protobuf text_envelope envelope websocket_frames websocket_handshake quic_streams

scripts/need cc c++ cargo-fuzz
export RUSTC_BOOTSTRAP=1
for target in "$@"; do
  longest=4096
  case $target in
    envelope) fuzz=protocol/link/fuzz ;;
    websocket_*) fuzz=protocol/websocket/fuzz ;;
    # Longer than what may wait between a stream and its shard.
    quic_*) fuzz=gateway/fuzz longest=40000 ;;
    *) fuzz=protocol/wire/fuzz ;;
  esac
  mkdir -p "$fuzz/corpus/$target"
  echo "fuzz: $target, $limit" >&2
  scripts/with-tools cargo fuzz run -s none --fuzz-dir "$fuzz" "$target" "$fuzz/corpus/$target" "$fuzz/seeds/$target" -- \
    "$limit" -max_len=$longest -timeout=5 -print_final_stats=1
done
