#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Plays systemctl for the one unit of the board that the variable BOARD names.
printf '%s\n' "$*" >> "$BOARD/systemctl.calls"
unit=$BOARD/root/etc/systemd/system/rkllm-server.service
field() { sed -n "s/^$1=//p" "$unit"; }
alive() { [ -f "$BOARD/unit.pid" ] && [ -n "$(tr -d '\0' < "/proc/$(cat "$BOARD/unit.pid")/cmdline" 2>/dev/null)" ]; }
stop() {
  if alive; then kill "$(cat "$BOARD/unit.pid")"; fi
  while alive; do sleep 0.1; done
}
case "$1 $2 $3" in
"is-active --quiet rkllm-server") alive ;;
"daemon-reload  " | "enable --quiet rkllm-server") [ -f "$unit" ] ;;
"stop rkllm-server " | "disable --quiet --now") stop ;;
"start rkllm-server ")
  $(field ExecStartPre | sed 's/^-+//') > /dev/null 2>&1
  $(field ExecStart) >> "$(field StandardOutput | sed 's/^append://')" 2>&1 < /dev/null &
  echo $! > "$BOARD/unit.pid"
  ;;
*) exit 1 ;;
esac
