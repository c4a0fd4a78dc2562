#!/usr/bin/env bash
# hearth from nothing: every stage in order, in the folder WORK (default: runs). Stop it and start it again as you
# like: a stage that is done is passed over, a training goes on from its last checkpoint.
#
#   WORK=runs SHARED=../shared THREADS=2 recipes/hearth/run.sh
#
# SHARED holds corpus/, speakers/librispeech.parquet and models/campplus.onnx. KOKORO, if set, is a folder with
# kokoro.onnx and voices/: then the teacher speaks more for the corpus first. Minutes can be set for each part, as
# LM_MINUTES=240; the learning rate falls to its end within them.
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=${WORK:-runs}
SHARED=${SHARED:-../shared}
THREADS=${THREADS:-2}
PYTHON=${PYTHON:-python}
OUT=${OUT:-$WORK/hearth}
mkdir -p "$WORK"

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

CORPUS=$WORK/corpus
mkdir -p "$CORPUS"
ln -sf "$(realpath "$SHARED")"/corpus/*.parquet "$CORPUS"
if [ -n "${KOKORO:-}" ]; then
  TEXTS=recipes/hearth/texts
  stage kokoro fireside.train.kokoro --model "$KOKORO/kokoro.onnx" --voices "$KOKORO/voices" --again "$SHARED/corpus" \
    --zh "$TEXTS/zh_a.txt" "$TEXTS/zh_b.txt" --mix "$TEXTS/mix.txt" --en "$TEXTS/en.txt" \
    --out "$CORPUS" --minutes "${KOKORO_MINUTES:-35}"
fi
stage data fireside.train.data --corpus "$CORPUS" --speakers "$SHARED/speakers/librispeech.parquet" \
  --campplus "$SHARED/models/campplus.onnx" --out "$WORK/features" --workers "$THREADS" \
  --warp 0.85 0.92 1.09 1.18
stage phones fireside.train.phones --features "$WORK/features" --out "$WORK/phones.jsonl"
stage speaker fireside.train.speaker --corpus "$CORPUS" --speakers "$SHARED/speakers/librispeech.parquet" \
  --teacher "$SHARED/models/campplus.onnx" --out "$WORK/speaker" --features "$WORK/features" \
  --minutes "${SPEAKER_MINUTES:-40}" --threads "$THREADS"
stage tokenizer-first fireside.train.tokenizer --features "$WORK/features" --phones "$WORK/phones.jsonl" \
  --out "$WORK/tokenizer-first" --minutes "${TOKENIZER_MINUTES:-27}" --threads "$THREADS"
stage tokenizer fireside.train.tokenizer --features "$WORK/features" --phones "$WORK/phones.jsonl" \
  --refine "$WORK/tokenizer-first" --out "$WORK/tokenizer" \
  --minutes "${REFINE_MINUTES:-65}" --threads "$THREADS"
stage vocoder fireside.train.vocoder --features "$WORK/features" --out "$WORK/vocoder" \
  --minutes "${VOCODER_MINUTES:-130}" --threads "$THREADS"
stage flow fireside.train.flow --features "$WORK/features" --out "$WORK/flow" --set crops.real_share=0.35 \
  --minutes "${FLOW_MINUTES:-155}" --threads "$THREADS"
stage lm fireside.train.lm --features "$WORK/features" --out "$WORK/lm" \
  --minutes "${LM_MINUTES:-90}" --threads "$THREADS"
stage package fireside.train.package --runs "$WORK" --out "$OUT"
stage evaluate fireside.evaluate.speech --features "$WORK/features" --model "$OUT" --out "$WORK/eval"
echo "The model folder is $OUT; try: fireside say \"Good evening.\" --model $OUT"
