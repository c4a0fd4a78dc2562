#!/usr/bin/env bash
# hearth from nothing: every stage in order, in the folder WORK (default: runs). Stop it and start it again as you
# like: a stage that is done is passed over, a training goes on from its last checkpoint.
#
#   WORK=runs SHARED=../shared THREADS=2 recipes/hearth/run.sh
#
# SHARED holds corpus/, speakers/librispeech.parquet and models/campplus.onnx; paths are relative to the repository.
# KOKORO, if set, is a folder with kokoro.onnx and voices/: then the teacher speaks more for the corpus first. Minutes
# can be set for each part, as LM_MINUTES=240; the learning rate falls to its end within them.
#
# SCALE=0.01 tries out the whole recipe: every stage, a hundredth of the minutes, each EVERYth recording (10 at that
# scale) and COUNT utterances (1) of each part of the evaluation. What it makes can be loaded and only makes noise.
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=${WORK:-runs}
SHARED=${SHARED:-../shared}
THREADS=${THREADS:-2}
PYTHON=${PYTHON:-python}
OUT=${OUT:-$WORK/hearth}
SCALE=${SCALE:-1}
export LC_NUMERIC=C # a decimal point, for awk

fail() {
  echo "$1" >&2
  exit 2
}

[[ $SCALE =~ ^[0-9]*\.?[0-9]+$ && $SCALE =~ [1-9] ]] || fail "SCALE=$SCALE: give a number above 0, as 0.01."
for input in corpus speakers/librispeech.parquet models/campplus.onnx; do
  [ -e "$SHARED/$input" ] || fail "There is no $SHARED/$input: set SHARED to the folder that has it."
done
# No fewer than a tenth of the recordings: some of every kind must be left for validation.
EVERY=${EVERY:-$(awk -v s="$SCALE" 'BEGIN { n = int(1 / s + 0.5); print (n < 1 ? 1 : (n > 10 ? 10 : n)) }')}
if [ "$(awk -v s="$SCALE" 'BEGIN { print (s < 1) }')" = 1 ]; then COUNT=${COUNT:-1}; fi

mkdir -p "$WORK"
# The children inherit the lock: it also tells that a stage outlived a run.sh that was ended alone.
if command -v flock > /dev/null; then
  exec 9> "$WORK/lock"
  flock -n 9 || fail "A stage is still at work in $WORK: wait for it or end it."
fi
[ -e "$WORK/scale" ] || echo "$SCALE $EVERY" > "$WORK/scale"
[ "$(cat "$WORK/scale")" = "$SCALE $EVERY" ] ||
  fail "$WORK was begun with another SCALE or EVERY ($(cat "$WORK/scale")): use another WORK, or those."

# stage NAME COMMAND...: run a command once; it is done when it ended well.
stage() {
  local name=$1
  shift
  if [ -e "$WORK/$name.done" ]; then
    echo "== $name: done before (remove $WORK/$name.done to repeat it)"
    return
  fi
  echo "== $name"
  "$PYTHON" -m "$@"
  touch "$WORK/$name.done"
}

# minutes N: as many at this SCALE.
minutes() {
  awk -v n="$1" -v s="$SCALE" 'BEGIN { printf "%.6g\n", n * s }'
}

# steps N: as many at this SCALE, 1 at least.
steps() {
  awk -v n="$1" -v s="$SCALE" 'BEGIN { n = int(n * s + 0.5); print (n < 1 ? 1 : n) }'
}

CORPUS=$WORK/corpus
mkdir -p "$CORPUS"
ln -sf "$(realpath "$SHARED")"/corpus/*.parquet "$CORPUS"
if [ -n "${KOKORO:-}" ]; then
  TEXTS=recipes/hearth/texts
  stage kokoro fireside.train.kokoro --model "$KOKORO/kokoro.onnx" --voices "$KOKORO/voices" --again "$SHARED/corpus" \
    --zh "$TEXTS/zh_a.txt" "$TEXTS/zh_b.txt" --mix "$TEXTS/mix.txt" --en "$TEXTS/en.txt" \
    --out "$CORPUS" --minutes "$(minutes "${KOKORO_MINUTES:-35}")"
fi
stage data fireside.train.data --corpus "$CORPUS" --speakers "$SHARED/speakers/librispeech.parquet" \
  --campplus "$SHARED/models/campplus.onnx" --out "$WORK/features" --workers "$THREADS" --every "$EVERY" \
  --warp 0.85 0.92 1.09 1.18
stage phones fireside.train.phones --features "$WORK/features" --out "$WORK/phones.jsonl"
stage speaker fireside.train.speaker --corpus "$CORPUS" --speakers "$SHARED/speakers/librispeech.parquet" \
  --teacher "$SHARED/models/campplus.onnx" --out "$WORK/speaker" --features "$WORK/features" --every "$EVERY" \
  --minutes "$(minutes "${SPEAKER_MINUTES:-40}")" --threads "$THREADS"
stage tokenizer-first fireside.train.tokenizer --features "$WORK/features" --phones "$WORK/phones.jsonl" \
  --out "$WORK/tokenizer-first" --minutes "$(minutes "${TOKENIZER_MINUTES:-27}")" --threads "$THREADS"
stage tokenizer-second fireside.train.tokenizer --features "$WORK/features" --phones "$WORK/phones.jsonl" \
  --refine "$WORK/tokenizer-first" --out "$WORK/tokenizer-second" \
  --minutes "$(minutes "${REALIGN_MINUTES:-19}")" --threads "$THREADS"
stage tokenizer fireside.train.tokenizer --features "$WORK/features" --phones "$WORK/phones.jsonl" \
  --refine "$WORK/tokenizer-second" --out "$WORK/tokenizer" \
  --minutes "$(minutes "${REFINE_MINUTES:-63}")" --threads "$THREADS"
stage vocoder fireside.train.vocoder --features "$WORK/features" --out "$WORK/vocoder" \
  --minutes "$(minutes "${VOCODER_MINUTES:-130}")" --threads "$THREADS"
stage flow-first fireside.train.flow --features "$WORK/features" --out "$WORK/flow-first" --set crops.real_share=0.35 \
  --minutes "$(minutes "${FLOW_MINUTES:-215}")" --threads "$THREADS"
stage flow-second fireside.train.flow --features "$WORK/features" --out "$WORK/flow-second" \
  --init "$WORK/flow-first/flow.safetensors" \
  --set run.peak_rate=0.0012 crops.real_share=0.5 crops.embedding_noise=0.5 crops.blind_share=0.35 \
  crops.prefix_share=0.9 crops.prefix_max=0.7 "crops.lengths=[120,180,300]" "crops.shares=[0.25,0.35,0.4]" \
  --minutes "$(minutes "${PROMPT_MINUTES:-66}")" --threads "$THREADS"
stage flow fireside.train.flow --features "$WORK/features" --out "$WORK/flow" \
  --teacher "$WORK/flow-second/flow.safetensors" --set speaker_rate=0.7 \
  run.peak_rate=0.0006 run.ema_decay=0.995 crops.real_share=0.5 crops.embedding_noise=0.3 crops.half_share=0.5 \
  crops.blind_share=0.05 crops.prefix_share=0.95 crops.prefix_max=0.7 "crops.lengths=[120,180,300]" \
  "crops.shares=[0.25,0.35,0.4]" --minutes "$(minutes "${GUIDANCE_MINUTES:-26}")" --threads "$THREADS"
stage adaptation fireside.train.adaptation --runs "$WORK" --steps "$(steps 90)"
stage lm fireside.train.lm --features "$WORK/features" --out "$WORK/lm" \
  --minutes "$(minutes "${LM_MINUTES:-90}")" --threads "$THREADS"
stage package fireside.train.package --runs "$WORK" --out "$OUT"
stage evaluate fireside.evaluate.speech --features "$WORK/features" --model "$OUT" --out "$WORK/eval" \
  ${COUNT:+--count "$COUNT"}
echo "The model folder is $OUT; try: fireside say \"Good evening.\" --model $OUT"
