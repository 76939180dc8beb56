# To be sourced on the GPU machine: unpacks the bundle's folders that are given (again costs nothing) and sets the environment.
#   source benchmarks/gpu/setup.sh .gpu/a .gpu/b .gpu/c
export AGL_GPU_HOME=${AGL_GPU_HOME:-$HOME/agl-gpu}
mkdir -p "$AGL_GPU_HOME/site"
for part in "$@"; do
  for archive in "$part"/*.tar.xz; do
    [ -f "$archive" ] || continue
    stamp="$AGL_GPU_HOME/.$(basename "$archive")"
    [ -e "$stamp" ] || { tar -xJf "$archive" -C "$AGL_GPU_HOME/site" && touch "$stamp"; }
  done
done
export PYTHONPATH="$PWD/core/src:$PWD/plugins/langgraph/src:$PWD/algorithms/grpo/src:$PWD/algorithms/verl/src:$AGL_GPU_HOME/site"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 DO_NOT_TRACK=1
export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_NO_USAGE_STATS=1 VLLM_CACHE_ROOT="$AGL_GPU_HOME/cache" HYDRA_FULL_ERROR=1 RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
