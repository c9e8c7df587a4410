#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The vendor's script by its name and options, by way of rkllm-ext deploy (docs/deploy.md): the board on adb, or with
# --host USER@BOARD by ssh, gets the server.
# usage: build_rkllm_server_gradio.sh --workshop DIR --model_path FILE --platform rk3588|rk3576
#                                 [--lora_model_path FILE] [--prompt_cache_path FILE] [options of rkllm-ext deploy]
case ${1-} in
rk*)  # the SDK's first form: platform, workshop, model
  platform=$1 workshop=${2-} model=${3-}
  shift "$(($# < 3 ? $# : 3))"
  set -- --platform "$platform" --workshop "$workshop" --model_path "$model" "$@"
  ;;
esac
case " $* " in
*" --host"* | *" --adb"*) ;;
*) set -- --adb "$@" ;;
esac
exec rkllm-ext deploy --server gradio "$@"
