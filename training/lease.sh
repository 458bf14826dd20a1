#!/usr/bin/env bash
# Train on a lent GPU machine whose calls are short: stage data over several calls, train in the background, watch.
#   stage PATH...           copy files or folders into $STAGE
#   train AE_MIN UNET_MIN [TILE_MIN [UP_MIN]]   start tileability and the upscaler (on the first GPU), autoencoder, U-Net
#                           (on all), one after the other, each for so many minutes; 0 leaves one out (the U-Net then
#                           uses the staged vae/)
#   kernels                 check and time `kernels` in the background: what needs no quiet GPU at once, the rest once
#                           training is done (run/done); copy benchmarks, tests and pyproject.toml to $STAGE/code first
#   bench NAME ARGUMENTS...   `python -m benchmarks.NAME` in the background (code copied as for kernels)
#   join NAME               put staged pieces NAME.00, NAME.01, … together as NAME
#   watch SECONDS           wait, print the logs' ends, copy logs (one archive), the sample sheet and the autoencoder to $OUT
#   pieces FILE FIRST LAST  copy that range of a result's 15 MiB pieces to $OUT
#   cache                   pack inductor's compiled kernels into $OUT, for the next lease
# README.md beside this says in which order.
set -euo pipefail
STAGE=${STAGE:-/tmp/zellige}
export PYTHONPATH="$STAGE/site:$STAGE/code" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR="$STAGE/inductor"
mkdir -p "$STAGE/run"
command=$1; shift
case $command in
stage)
    for path in "$@"; do cp -r "$path" "$STAGE/"; done
    if [ -d "$STAGE/.whl" ] && [ ! -d "$STAGE/site" ]; then
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$STAGE/site" "$STAGE"/.whl/*.whl
    fi
    mkdir -p "$STAGE/code"
    cp -r asd kernels materials textile_metric training "$STAGE/code/"
    du -sh "$STAGE"
    ;;
train)
    gpus=$(nvidia-smi -L | wc -l)
    rm -f "$STAGE/run/done"
    cat > "$STAGE/chain.sh" <<CHAIN
set -e
cd $STAGE/code
# One process a GPU, each of which sees its own alone: so all of them compile, and cache, the same kernels.
spread() {
    local log=\$1 ranks=(); shift
    for ((rank = 0; rank < $gpus; rank++)); do
        CUDA_VISIBLE_DEVICES=\$rank RANK=\$rank WORLD_SIZE=$gpus LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29517 \\
            python3 -m "\$@" >> $STAGE/run/\$log.log 2>&1 &
        ranks+=(\$!)
    done
    for rank in "\${ranks[@]}"; do wait "\$rank"; done
}
unet="--packs $STAGE/.pack --text $STAGE/text ${UNET_ARGS:-}"
if [ "$2" != 0 ] && [ -d $STAGE/vae ] && [ "$1${3:-0}" != 00 ]; then
    # beside what comes before it, compile for the U-Net to come
    CUDA_VISIBLE_DEVICES=0 python3 -m training.diffusion \$unet --vae $STAGE/vae --out $STAGE/warm --bank 1500 --max-steps 6 \
        --other-shapes 0 --sheet-every 99 > $STAGE/run/warm.log 2>&1 &
fi
if [ "${3:-0}" != 0 ]; then
    CUDA_VISIBLE_DEVICES=0 python3 -m training.tileability --packs $STAGE/.pack --out $STAGE/run --lite0 $STAGE/lite0.safetensors \
        --minutes ${3:-0} ${TILE_ARGS:-} > $STAGE/run/tile.log 2>&1 || true
fi
if [ "${4:-0}" != 0 ]; then
    CUDA_VISIBLE_DEVICES=0 python3 -m training.upscaler --packs $STAGE/.pack --out $STAGE/run --lite $STAGE/lite2.safetensors \
        --minutes ${4:-0} ${UP_ARGS:-} > $STAGE/run/up.log 2>&1 || true
fi
if [ "$1" != 0 ]; then
    spread ae training.autoencoder --packs $STAGE/.pack --lite0 $STAGE/lite0.safetensors --out $STAGE/run --minutes $1 ${AE_ARGS:-}
    rm -rf $STAGE/vae; cp -r $STAGE/run/vae $STAGE/vae
fi
if [ "$2" != 0 ]; then
    spread unet training.diffusion \$unet --vae $STAGE/vae --out $STAGE/run --minutes $2
fi
touch $STAGE/run/done
CHAIN
    setsid nohup bash "$STAGE/chain.sh" > "$STAGE/run/chain.log" 2>&1 &
    ;;
watch)
    for _ in $(seq "$1"); do
        pgrep -f "$STAGE/(chain|kernels).sh|-m benchmarks" > /dev/null || break
        sleep 1
    done
    for log in chain warm tile up ae unet k_clean k_fuzz0 k_pytest k_sanitizer k_attention k_tiles bench; do
        [ -f "$STAGE/run/$log.log" ] && echo "== $log" && tail -n "${LINES_OF_LOG:-12}" "$STAGE/run/$log.log" | cut -c1-600
    done
    nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
    (cd "$STAGE/run" && tar -czf "$OUT/logs.tgz" *.jsonl *.json *.log 2> /dev/null) || true
    cp "$STAGE/run/sheet.jpg" "$STAGE/run/tileability.safetensors" "$OUT/" 2> /dev/null || true
    cp "$STAGE/run/upscaler.safetensors" "$OUT/" 2> /dev/null || true
    mkdir -p "$OUT/vae" && cp "$STAGE"/run/vae/* "$OUT/vae/" 2> /dev/null || true
    ;;
kernels)
    cat > "$STAGE/kernels.sh" <<'KERNELS'
cd "$STAGE/code"; R=$STAGE/run
export OMP_NUM_THREADS=3
python3 -m benchmarks.attention_tiles --minutes 0 --clean "$R/clean.json" > "$R/k_clean.log" 2>&1
for i in 0 1 2 3; do
    python3 -m benchmarks.attention_fuzz --first $((i * 500)) --calls 500 --minutes 5 > "$R/k_fuzz$i.log" 2>&1 &
done
wait
timeout 150 python3 -m pytest -c /dev/null --rootdir . --import-mode=importlib -q -p no:cacheprovider tests/kernels \
    --ignore=tests/kernels/gpu --ignore=tests/kernels/test_name.py -k "gpu or cuda or 512 or linear_attention_is" > "$R/k_pytest.log" 2>&1
PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 240 compute-sanitizer --error-exitcode 9 \
    python3 -m benchmarks.attention_fuzz --calls 60 --kernels --minutes 3 > "$R/k_sanitizer.log" 2>&1
echo "compute-sanitizer: $?" >> "$R/k_sanitizer.log"
while pgrep -f chain.sh > /dev/null; do sleep 1; done
unset OMP_NUM_THREADS
python3 -m benchmarks.attention --device cuda --json "$R/k_attention.json" > "$R/k_attention.log" 2>&1
python3 -m benchmarks.attention_tiles --clean "$R/clean.json" --minutes 4 --fit --json "$R/k_tiles.json" > "$R/k_tiles.log" 2>&1
cp kernels/gpu/tiles.json "$R/" 2> /dev/null
touch "$R/kernels_done"
KERNELS
    export STAGE
    setsid nohup bash "$STAGE/kernels.sh" > "$STAGE/run/kernels.log" 2>&1 &
    ;;
bench)
    cd "$STAGE/code"; name=$1; shift
    setsid nohup python3 -m "benchmarks.$name" --json "$STAGE/run/$name.json" "$@" > "$STAGE/run/bench.log" 2>&1 &
    ;;
join)
    cat "$STAGE/$1".[0-9][0-9] > "$STAGE/$1"
    ;;
cache)
    tar -C "$STAGE" -cf - inductor | zstd -3 -T0 2> /dev/null > "$STAGE/inductor.tar.zst" \
        || tar -C "$STAGE" -czf "$STAGE/inductor.tar.zst" inductor
    split -b 15M -d "$STAGE/inductor.tar.zst" "$OUT/inductor.tar.zst."
    ;;
pieces)
    split -b 15M -d "$STAGE/run/$1" "$STAGE/run/piece."
    for i in $(seq -f %02g "$2" "$3"); do cp "$STAGE/run/piece.$i" "$OUT/" 2> /dev/null || true; done
    ;;
esac
